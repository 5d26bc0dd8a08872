// Alerts: those that fired, as they come, and those that were held back, with the reason.

import { clock, h, put, sleep, span } from "./dom.js";
import { openFrame } from "./frame.js";

export const SNOOZES = [["15 min", 15], ["1 hour", 60], ["8 hours", 480], ["1 day", 1440]];
const PAGE = 30;
const AGAIN_S = 2; // after the stream broke off
const REASONS = {
  unconfirmed: "the model did not say yes often enough", cooldown: "too soon after the last alert", snoozed: "the rule was snoozed",
  off_schedule: "outside the rule's times", late: "the frame came too late", rate_limited: "the rule had used its share of the model",
  judge_busy: "too many frames were waiting for the model", judge_unavailable: "the model could not be asked",
};

/** "judge_busy" -> "judge busy". @param {string} reason */
export const words = reason => reason.replaceAll("_", " ");

export class Alerts {
  /**
   * @param {import("./app.js").App} app
   * @param {(rule: string, minutes: number, camera: string) => void} snooze
   * @param {() => void} changed an alert began or ended
   */
  constructor(app, snooze, changed) {
    this.app = app;
    this.snooze = snooze;
    this.changed = changed;
    this.ended = new AbortController();
    const option = (value, text) => h("option", { value }, text);
    this.kind = h("select", { "aria-label": "Which alerts", onchange: () => this.#reload() }, option("fired", "Fired"), option("suppressed", "Held back"));
    this.rule = h("select", { "aria-label": "Of which rule", onchange: () => this.#reload() }, option("", "All rules"));
    this.live = h("span", { class: "chip", role: "status" }, "connecting");
    this.said = h("p", { class: "unseen", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.list = h("ul", { class: "alerts-list" });
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.#load() }, "Older ones");
    this.node = h("section", { class: "panel stack alerts", "aria-label": "Alerts" },
      h("div", { class: "head" }, h("h2", {}, "Alerts"), h("div", { class: "row" }, this.kind, this.rule, this.live)),
      this.said, this.problem, this.list, this.more);
  }

  /** Names to choose from. @param {string[]} names */
  offer(names) {
    if ([...this.rule.options].slice(1).map(option => option.value).join() === names.join()) return;
    const chosen = this.rule.value;
    put(this.rule, h("option", { value: "" }, "All rules"), names.map(name => h("option", {}, name)));
    this.rule.value = names.includes(chosen) ? chosen : "";
  }

  /** Follow the stream, once. */
  start() {
    if (this.started) return;
    this.started = true;
    this.#follow();
  }

  close() { this.ended.abort(); }

  /** Show those of one rule. @param {string} rule @param {"fired"|"suppressed"} kind */
  look(rule, kind) {
    this.kind.value = kind;
    this.rule.value = rule;
    this.#reload();
    this.node.scrollIntoView({ block: "start" });
  }

  async #follow() {
    const { signal } = this.ended;
    while (!signal.aborted) {
      try {
        const headers = this.lastId ? { "Last-Event-ID": this.lastId } : {};
        const stream = this.app.api.events("/v1/alerts/stream", { signal, headers });
        let coming = stream.next(); // asked for before the list is, so that nothing falls between the two
        await this.#reload();
        this.#tell("live", "live");
        for (let event; !(event = await coming).done; coming = stream.next()) this.#arrived(event.value);
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401) return;
      }
      this.#tell("stalled", "reconnecting");
      await sleep(AGAIN_S, signal);
    }
  }

  #tell(state, text) {
    this.live.className = `chip ${state}`;
    this.live.textContent = text;
  }

  #arrived({ id, data: event }) {
    this.lastId = id;
    this.changed();
    if (event.event_type === "on") this.said.textContent = `Alert: ${event.rule} at ${event.camera}. ${event.message}`;
    if (this.kind.value === "fired") this.#reload(event.event_type === "on" ? event.id.replace(/-on$/, "") : null);
  }

  /** The newest anew. @param {string|null} [fresh] id of the one to point out */
  async #reload(fresh = null) {
    this.cursor = null;
    await this.#load(true, fresh);
  }

  async #load(anew = false, fresh = null) {
    const query = { kind: this.kind.value, limit: String(PAGE), ...(this.rule.value ? { rule: this.rule.value } : {}), ...(this.cursor ? { cursor: this.cursor } : {}) };
    const asked = this.asked = JSON.stringify(query);
    try {
      const page = await this.app.api.json(`/v1/alerts?${new URLSearchParams(query)}`, { signal: this.ended.signal });
      if (asked !== this.asked) return;
      this.problem.hidden = true;
      if (anew) put(this.list);
      this.list.append(...page.data.map(each => query.kind === "fired" ? this.#fired(each, each.id === fresh) : this.#held(each)));
      if (!this.list.children.length) put(this.list, h("li", { class: "hint" }, query.kind === "fired" ? "No alert so far." : "Nothing was held back."));
      this.cursor = page.next_cursor ?? null;
      this.more.hidden = this.cursor === null;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.problem.hidden = false;
      this.problem.textContent = error.message;
    }
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
