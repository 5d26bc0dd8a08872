// The list of alerts: those that fired, updated as they happen, and those that were held back, with the reason.

import { clock, h, put, span } from "./dom.js";
import { openFrame } from "./frame.js";

export const SNOOZES = [["15 min", 15], ["1 hour", 60], ["8 hours", 480], ["1 day", 1440]];
const PAGE = 30;
const MANY = 5; // with more new alerts at once, the whole list is loaded again
const LONGEST = 300; // entries after which the list is loaded again: the page may stay open for weeks
const REASONS = {
  unconfirmed: "the model did not say yes often enough", cooldown: "too soon after the last alert", snoozed: "the rule was snoozed",
  off_schedule: "outside the rule's times", late: "the frame came too late", rate_limited: "the rule had used up its calls of the model",
  judge_busy: "too many frames were waiting for the model", judge_unavailable: "the model was not available",
};

/** "judge_busy" -> "judge busy". @param {string} reason */
export const words = reason => reason.replaceAll("_", " ");

export class Alerts {
  /**
   * @param {import("./app.js").App} app
   * @param {(rule: string, minutes: number, camera: string) => void} snooze
   * @param {() => void} changed called when an alert begins or ends
   */
  constructor(app, snooze, changed) {
    this.app = app;
    this.snooze = snooze;
    this.changed = changed;
    this.ended = new AbortController();
    this.shown = new Map(); // alerts that fired: id -> entry
    this.news = []; // events that are not shown yet
    this.turn = Promise.resolve();
    const option = (value, text) => h("option", { value }, text);
    this.kind = h("select", { "aria-label": "Which alerts", onchange: () => this.#reload() }, option("fired", "Fired"), option("suppressed", "Held back"));
    this.rule = h("select", { "aria-label": "Of which rule", onchange: () => this.#reload() }, option("", "All rules"));
    this.live = h("span", { class: "chip", role: "status" }, "connecting");
    this.said = h("p", { class: "unseen", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.list = h("ul", { class: "alerts-list" });
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.#inTurn(() => this.#load(this.cursor)) }, "Show older");
    this.node = h("section", { class: "panel stack alerts", "aria-label": "Alerts" },
      h("div", { class: "head" }, h("h2", {}, "Alerts"), h("div", { class: "row" }, this.kind, this.rule, this.live)),
      this.said, this.problem, this.list, this.more);
    this.ends = [app.on("alert", event => this.#arrived(event)), app.on("alerts-live", () => this.#liveChanged()), app.on("erased", () => this.#reload())];
    this.#tell();
    this.#reload();
  }

  /** Set the rules to choose from. @param {string[]} names */
  offer(names) {
    if ([...this.rule.options].slice(1).map(option => option.value).join() === names.join()) return;
    const chosen = this.rule.value;
    put(this.rule, h("option", { value: "" }, "All rules"), names.map(name => h("option", {}, name)));
    this.rule.value = names.includes(chosen) ? chosen : "";
  }

  close() {
    this.ends.forEach(end => end());
    this.ended.abort();
  }

  /** Show the alerts of one rule. @param {string} rule @param {"fired"|"suppressed"} kind */
  look(rule, kind) {
    this.kind.value = kind;
    this.rule.value = rule;
    this.#reload();
    this.node.scrollIntoView({ block: "start" });
  }

  #liveChanged() {
    this.#tell();
    if (this.app.alertsLive && !this.problem.hidden) this.#reload(); // the last load failed while the agent was unreachable
  }

  #tell() {
    const live = this.app.alertsLive;
    this.live.className = `chip ${live ? "live" : "stalled"}`;
    this.live.textContent = live ? "live" : "connecting";
  }

  #arrived(event) {
    if (event.event_type === "on") this.said.textContent = `Alert: ${event.rule} at ${event.camera}. ${event.message}`;
    this.news.push(event);
    if (this.news.length === 1) this.#inTurn(() => this.#takeNews());
  }

  /** Run changes of the list one after the other. @param {() => Promise<void>} act */
  #inTurn(act) {
    this.turn = this.turn.then(async () => {
      if (this.ended.signal.aborted) return;
      try {
        await act();
        this.problem.hidden = true;
      } catch (error) {
        this.problem.hidden = error.name === "AbortError";
        this.problem.textContent = error.message;
      }
    });
  }

  async #takeNews() {
    const began = new Map(); // id -> true for a new alert, false for one that ended
    for (const { id, event_type: type, rule } of this.news.splice(0)) {
      const alert = id.replace(/-(on|off)$/, "");
      if (["", rule].includes(this.rule.value)) began.set(alert, type === "on" || Boolean(began.get(alert)));
    }
    this.changed();
    if (this.kind.value !== "fired") return;
    if (began.size > MANY || this.shown.size > LONGEST) return this.#load(null);
    for (const [id, isNew] of began) if (isNew || this.shown.has(id)) await this.#renew(id, isNew);
  }

  /** Fetch one alert and show it in its place, or at the top. @param {string} id @param {boolean} isNew highlight it */
  async #renew(id, isNew) {
    const entry = this.#fired(await this.#get(`/${id}`), isNew), old = this.shown.get(id);
    const held = old?.contains(document.activeElement) ? document.activeElement.tagName : null;
    if (!this.shown.size) put(this.list);
    if (old) old.replaceWith(entry);
    else this.list.prepend(entry);
    if (held) entry.querySelector(held)?.focus();
    this.shown.set(id, entry);
  }

  #get(path) { return this.app.api.json(`/v1/alerts${path}`, { signal: this.ended.signal }); }

  #reload() { this.#inTurn(() => this.#load(null)); }

  /** Load a page of the list. @param {number|null} cursor where it begins; null: load the newest and replace the list */
  async #load(cursor) {
    const kind = this.kind.value, rule = this.rule.value;
    const page = await this.#get(`?${new URLSearchParams({ kind, limit: String(PAGE), ...(rule ? { rule } : {}), ...(cursor ? { cursor } : {}) })}`);
    if (cursor === null) {
      put(this.list);
      this.shown.clear();
    }
    for (const each of page.data) {
      const entry = kind === "fired" ? this.#fired(each, false) : this.#held(each);
      if (kind === "fired") this.shown.set(each.id, entry);
      this.list.append(entry);
    }
    if (!this.list.children.length) put(this.list, h("li", { class: "hint" }, kind === "fired" ? "No alert so far." : "No alert was held back."));
    this.cursor = page.next_cursor ?? null;
    this.more.hidden = this.cursor === null;
  }

  #fired(alert, fresh) {
    const zone = this.app.zone(alert.camera), frame = alert.frames.at(-1);
    const picture = alert.snapshot_url
      ? h("img", { src: this.app.api.picture(alert.snapshot_url), alt: `What ${alert.camera} showed`, loading: "lazy" })
      : h("span", { class: "hint" }, "no picture");
    const lasted = alert.end_time === null ? h("span", { class: "chip bad" }, "still on") : h("span", { class: "hint" }, `for ${span(alert.end_time - alert.start_time)}`);
    return h("li", { class: fresh ? "alert fresh" : "alert" },
      h("button", { type: "button", class: "picture", "aria-label": `Open the frame of ${alert.rule} at ${clock(alert.time, zone)}`, disabled: !frame,
        onclick: () => openFrame(this.app, { frame_id: frame.id }) }, picture),
      h("div", { class: "stack" },
        h("p", {}, h("strong", {}, alert.rule), ` · ${alert.camera} · ${clock(alert.start_time, zone)} `, lasted),
        h("p", {}, alert.message),
        h("p", { class: "hint" }, `${alert.confirmations[0]} of ${alert.confirmations[1]} verdicts · gate ${alert.score.toFixed(1)} · ${alert.latency_s.toFixed(1)} s after the frame`),
        this.app.may("admin") && this.#snoozing(alert)));
  }

  #snoozing({ rule, camera }) {
    const select = h("select", { "aria-label": `Snooze ${rule} at ${camera}`, onchange: () => {
      this.snooze(rule, Number(select.value), camera);
      select.value = "";
    } }, h("option", { value: "" }, "Snooze…"), SNOOZES.map(([text, minutes]) => h("option", { value: minutes }, text)));
    return h("div", { class: "row" }, select);
  }

  #held(record) {
    const zone = this.app.zone(record.camera);
    return h("li", { class: "held" },
      h("p", {}, h("strong", {}, record.rule), ` · ${record.camera} · ${clock(record.time, zone)} `, h("span", { class: "chip stalled" }, words(record.reason))),
      h("p", { class: "hint row" }, `${REASONS[record.reason] ?? words(record.reason)} · gate ${record.score.toFixed(1)}`,
        record.frame_id !== null && h("button", { type: "button", class: "quiet", onclick: () => openFrame(this.app, { frame_id: record.frame_id }) }, "Show the frame")));
  }
}
