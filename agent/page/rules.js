// The view for rules: the list with the state of each, the editor with its dry run, and the alerts as they happen.

import { Alerts, SNOOZES, words } from "./alerts.js";
import { clock, h, number, put, span } from "./dom.js";
import { Editor } from "./editor.js";

/** @param {HTMLElement} root @param {import("./app.js").App} app */
export function mount(root, app) {
  const view = new Rules(root, app);
  return { unmount: () => view.close(), show: () => view.show(), hide: () => view.hide() };
}

class Rules {
  /** @param {HTMLElement} root @param {import("./app.js").App} app */
  constructor(root, app) {
    this.app = app;
    this.shown = false;
    this.rules = [];
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.list = h("ul", { class: "rules-list" });
    this.editor = new Editor(app, () => { this.editor.node.hidden = true; this.#renew(); });
    this.alerts = new Alerts(app, (rule, minutes, camera) => this.#snooze(rule, minutes, camera), () => this.#renew());
    const make = h("button", { type: "button", class: "primary", onclick: () => this.editor.open(null) }, "New rule");
    put(root,
      h("div", { class: "head" }, h("h2", {}, "Rules"), app.may("admin") && make),
      this.problem, this.editor.node, this.list, this.alerts.node);
    this.ends = [app.on("cameras", () => { if (this.shown) this.#renew(); })];
  }

  show() {
    this.shown = true;
    this.#renew();
  }

  hide() { this.shown = false; }

  close() {
    this.ends.forEach(end => end());
    this.editor.end();
    this.alerts.close();
  }

  async #renew() {
    await this.#try(async () => {
      this.rules = (await this.app.api.json("/v1/rules")).data;
      this.alerts.offer(this.rules.map(rule => rule.name));
      const held = this.list.contains(document.activeElement) ? document.activeElement.dataset.act : null;
      if (this.list.querySelector("select:focus")) return; // a menu of the list is open
      put(this.list, this.rules.length ? this.rules.map(rule => this.#entry(rule)) : this.#none());
      if (held) this.list.querySelector(`[data-act="${CSS.escape(held)}"]`)?.focus();
    });
  }

  #none() {
    return h("li", { class: "empty" }, h("strong", {}, "No rules yet."),
      this.app.may("admin") ? "Create one: say what to watch for, see when it would have fired, then arm it." : "Creating one needs a token with the scope admin.");
  }

  #entry(rule) {
    const states = Object.entries(rule.state);
    const held = {};
    for (const [, { suppressed }] of states) for (const [reason, count] of Object.entries(suppressed)) held[reason] = (held[reason] ?? 0) + count;
    const last = Math.max(0, ...states.map(([, state]) => state.last_alert ?? 0));
    const calls = states.reduce((sum, [, state]) => sum + state.judge_calls, 0);
    const where = rule.cameras.length ? rule.cameras.join(", ") : "all cameras";
    const when = last ? `last alert ${clock(last, this.app.zone(rule.cameras[0]))}` : "no alert yet";
    return h("li", { class: "panel rule" },
      h("div", { class: "head" }, h("h3", {}, rule.name), phase(rule, states)),
      h("p", {}, rule.condition),
      rule.problem && h("p", { class: "problem" }, rule.problem),
      h("p", { class: "hint" }, `${where} · ${when} · ${number(calls)} model calls`),
      Object.keys(held).length > 0 && h("p", { class: "row" }, h("span", { class: "hint" }, "Held back:"),
        Object.entries(held).map(([reason, count]) => h("button", { type: "button", class: "chip", "data-act": `${rule.name} ${reason}`,
          onclick: () => this.alerts.look(rule.name, "suppressed") }, `${words(reason)} ${number(count)}`))),
      this.app.may("admin") && this.#actions(rule));
  }

  #actions(rule) {
    const act = what => `${rule.name} ${what}`;
    const snooze = h("select", { "aria-label": `Snooze ${rule.name}`, "data-act": act("snooze"), onchange: event => {
      const minutes = event.target.value;
      event.target.blur();
      this.#snooze(rule.name, Number(minutes));
    } }, h("option", { value: "" }, "Snooze…"), SNOOZES.map(([text, minutes]) => h("option", { value: minutes }, text)),
      snoozed(rule) && h("option", { value: 0 }, "End snooze"));
    return h("div", { class: "row" },
      h("label", { class: "check" }, h("input", { type: "checkbox", role: "switch", checked: rule.enabled, "data-act": act("enable"),
        onchange: event => this.#change(rule.name, { enabled: event.target.checked }) }), "Enabled"),
      snooze,
      rule.source === "api"
        ? [h("button", { type: "button", "data-act": act("edit"), onclick: () => this.editor.open(rule) }, "Edit"),
           h("button", { type: "button", class: "danger", "data-act": act("delete"), onclick: () => this.#remove(rule.name) }, "Delete")]
        : [h("button", { type: "button", "data-act": act("try"), onclick: () => this.editor.open(rule) }, "Try"),
           h("span", { class: "hint" }, "from the configuration file")]);
  }

  #change(name, settings) { return this.#send(`/v1/rules/${name}`, { method: "PATCH", body: settings }); }

  #snooze(name, minutes, camera) {
    return this.#send(`/v1/rules/${name}/snooze`, { body: { minutes, ...(camera ? { camera } : {}) } });
  }

  #remove(name) {
    if (confirm(`Delete the rule ${name}? Its past alerts stay.`)) this.#send(`/v1/rules/${name}`, { method: "DELETE" });
  }

  async #send(path, options) {
    await this.#try(() => this.app.api.send(path, options));
    await this.#renew();
  }

  async #try(act) {
    try {
      await act();
      this.problem.hidden = true;
    } catch (error) {
      this.problem.hidden = false;
      this.problem.textContent = error.message;
    }
  }
}

const snoozed = rule => rule.snoozed_until > Date.now() / 1000;

/** The state of a rule, as a chip. */
function phase(rule, states) {
  const on = states.filter(([, state]) => state.on).map(([camera]) => camera);
  if (on.length) return h("span", { class: "chip bad" }, `alert: ${on.join(", ")}`);
  if (rule.problem) return h("span", { class: "chip stalled" }, "not watching");
  if (!rule.enabled) return h("span", { class: "chip offline" }, "disabled");
  if (snoozed(rule)) return h("span", { class: "chip stalled" }, `snoozed for ${span(rule.snoozed_until - Date.now() / 1000)}`);
  if (states.some(([, state]) => state.checking)) return h("span", { class: "chip warming" }, "checking");
  return h("span", { class: "chip live" }, "watching");
}
