// The form of a rule: fills its fields from the settings, and reads them back.

import { h, put } from "./dom.js";

const GATE = { least: 2, most: 30, step: 0.5, usual: 8 }; // in units of the camera's own noise ("spreads")
const USUAL = { condition: "", cameras: [], gate: { on: GATE.usual, off: GATE.usual / 2 }, confirm: { n: 2, m: 3 }, clear: 2, hold_s: 10, cooldown_s: 60, schedule: [], snapshot: true };
const DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const NAME_LENGTH = 40;

export class RuleForm {
  /** @param {(field: string) => void} changed called after every change, with the name of the field */
  constructor(changed) {
    const input = (id, props = {}) => h("input", { id: `rule-${id}`, oninput: () => this.#changed(id), ...props });
    const count = (id, most, least = 1) => input(id, { type: "number", min: least, max: most, required: true });
    const field = (label, node, hint) => h("div", { class: "field" }, h("label", { for: node.id }, label), node, hint && h("p", { class: "hint" }, hint));
    this.changed = changed;
    this.condition = h("textarea", { id: "rule-condition", rows: 2, maxlength: 300, required: true, placeholder: "a bag is left by the door", oninput: () => this.#changed("condition") });
    this.name = input("name", { type: "text", maxlength: 64, pattern: "[a-z0-9_\\-]{1,64}", required: true, spellcheck: "false", autocomplete: "off" });
    this.cameras = h("fieldset", { class: "row" });
    this.gate = input("gate", { type: "range", min: GATE.least, max: GATE.most, step: GATE.step });
    this.gateText = h("output", { for: "rule-gate" });
    this.numbers = { n: count("n", 32), m: count("m", 32), clear: count("clear", 32), hold_s: count("hold_s", 86400, 0), cooldown_s: count("cooldown_s", 86400, 0) };
    this.snapshot = input("snapshot", { type: "checkbox" });
    this.timed = input("timed", { type: "checkbox" });
    this.days = DAYS.map(day => h("label", { class: "check" }, h("input", { type: "checkbox", value: day, onchange: () => this.#changed("schedule") }), day));
    this.start = input("start", { type: "time", required: true });
    this.end = input("end", { type: "time", required: true });
    this.times = h("fieldset", { class: "stack" }, h("div", { class: "row" }, this.days),
      h("div", { class: "row" }, field("from", this.start), field("to", this.end, "The same day, or the next.")));
    this.kept = h("p", { class: "hint" }, "The schedule has several parts and is kept as it is.");
    this.node = h("div", { class: "stack"},
      field("Watch for", this.condition, "In plain words."),
      field("Name", this.name, "a-z, 0-9, _ and -: it is part of MQTT topics."),
      this.cameras,
      h("div", { class: "field" }, h("div", { class: "head" }, h("label", { for: "rule-gate" }, "Gate"), this.gateText), this.gate,
        h("p", { class: "hint" }, "How much better than usual a picture must match before the model is asked. Further left asks more often.")),
      this.more = h("details", {}, h("summary", {}, "More"), h("div", { class: "stack more" },
        h("div", { class: "row" }, field("Yes needed", this.numbers.n), field("of the last", this.numbers.m), field("No to end", this.numbers.clear)),
        h("div", { class: "row" }, field("Lasts at least (s)", this.numbers.hold_s), field("Pause after it (s)", this.numbers.cooldown_s)),
        h("label", { class: "check" }, this.snapshot, "Keep and send a picture"),
        h("label", { class: "check" }, this.timed, "Only at certain times"), this.times, this.kept)));
    this.more.addEventListener("invalid", () => { this.more.open = true; }, { capture: true }); // a hidden field is invalid: show it
  }

  /** @param {any|null} rule as the API gives it; null: a new one @param {string[]} cameras names of all cameras */
  fill(rule, cameras) {
    const from = rule ?? USUAL;
    this.given = from;
    this.named = rule !== null;
    this.condition.value = from.condition;
    this.name.value = rule?.name ?? "";
    this.name.disabled = this.named;
    put(this.cameras, h("legend", {}, "Cameras (none chosen: all)"), cameras.map(id =>
      h("label", { class: "check" }, h("input", { type: "checkbox", value: id, checked: from.cameras.includes(id), onchange: () => this.#changed("cameras") }), id)));
    this.setGate(from.gate.on);
    for (const [name, node] of Object.entries(this.numbers)) node.value = from[name] ?? from.confirm[name];
    this.snapshot.checked = from.snapshot;
    this.timed.checked = from.schedule.length > 0;
    const part = from.schedule[0] ?? { days: DAYS, start: "20:00", end: "06:00" };
    for (const label of this.days) label.firstChild.checked = part.days.includes(label.firstChild.value);
    this.start.value = part.start;
    this.end.value = part.end === "24:00" ? "00:00" : part.end;
    this.#show();
  }

  /** The settings in the form. The ratio of the gate's closing to its opening threshold stays as it was. */
  settings() {
    const on = Number(this.gate.value), { n, m, clear, hold_s: hold, cooldown_s: cooldown } = this.numbers;
    return {
      condition: this.condition.value.trim(),
      cameras: [...this.cameras.querySelectorAll("input:checked")].map(box => box.value),
      gate: { on, off: on * this.given.gate.off / this.given.gate.on },
      confirm: { n: Number(n.value), m: Number(m.value) },
      clear: Number(clear.value), hold_s: Number(hold.value), cooldown_s: Number(cooldown.value),
      schedule: this.#schedule(), snapshot: this.snapshot.checked,
    };
  }

  /** @param {number} on */
  setGate(on) {
    this.gate.max = String(Math.max(GATE.most, on));
    this.gate.value = String(on);
    this.gateText.textContent = `${Number(this.gate.value).toFixed(1)} spreads`;
  }

  #schedule() {
    if (this.given.schedule.length > 1) return this.given.schedule;
    const days = this.days.map(label => label.firstChild).filter(box => box.checked).map(box => box.value);
    return this.timed.checked && days.length ? [{ days, start: this.start.value, end: this.end.value }] : [];
  }

  #changed(field) {
    if (field === "condition" && !this.named) this.name.value = slug(this.condition.value);
    if (field === "name") this.named = this.name.value !== "";
    if (field === "gate") this.setGate(Number(this.gate.value));
    this.#show();
    this.changed(field);
  }

  #show() {
    const several = this.given.schedule.length > 1;
    this.times.hidden = this.times.disabled = several || !this.timed.checked; // disabled: hidden fields are not required
    this.timed.parentElement.hidden = several;
    this.kept.hidden = !several;
  }
}

/** "A bag is left by the door" -> "a-bag-is-left-by-the-door". @param {string} text */
const slug = text => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, NAME_LENGTH).replace(/^-+|-+$/g, "");
