// The line that announces the newest alert on every view except that of the rules, which lists them all.

import { clock, h, put } from "./dom.js";

const REST_MS = 150; // a picture is fetched when no newer alert arrives for this long
const RULES = "#rules";

export class Notice {
  /** @param {import("./app.js").App} app @param {HTMLElement} root */
  constructor(app, root) {
    this.app = app;
    this.root = root;
    this.count = 0;
    app.on("alert", event => { if (event.event_type === "on" && !looking()) this.#show(event); });
    app.on("erased", () => this.clear());
    addEventListener("hashchange", () => { if (looking()) this.clear(); });
  }

  clear() {
    clearTimeout(this.resting);
    this.count = 0;
    this.shown = "";
    this.root.hidden = true;
    put(this.root);
  }

  #show({ id, rule, camera, start_time: start, message }) {
    clearTimeout(this.resting);
    this.count += 1;
    this.shown = id;
    const picture = h("span", { class: "small" });
    const more = this.count > 1 ? `See all ${this.count}` : "See it";
    this.root.hidden = false;
    put(this.root, picture,
      h("p", {}, h("strong", {}, `Alert: ${rule}`), ` · ${camera} · ${clock(start, this.app.zone(camera))} `, h("span", { class: "soft" }, message)),
      h("a", { href: RULES }, more), h("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "Dismiss"));
    this.resting = setTimeout(() => this.#fetch(id, picture), REST_MS);
  }

  async #fetch(id, place) {
    try {
      const { snapshot_url: url, camera } = await this.app.api.json(`/v1/alerts/${id.replace(/-on$/, "")}`);
      if (url && this.shown === id) put(place, h("img", { src: this.app.api.picture(url), alt: `What ${camera} showed` }));
    } catch { /* show it without its picture */ }
  }
}

const looking = () => location.hash.startsWith(RULES);
