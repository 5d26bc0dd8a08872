// The editor for a rule, with a dry run beside it that shows what the rule would have done with the stored history.

import { clock, h, number, put, sleep, span } from "./dom.js";
import { scaleOf } from "./draw.js";
import { openFrame } from "./frame.js";
import { FrameCard } from "./framecard.js";
import { RuleForm } from "./ruleform.js";
import { Strip } from "./strip.js";

const REST_MS = 500; // pause in typing after which the dry run starts
const POINTS = 900;
const MAX_VERDICTS = 200; // model calls of one dry run
const BUSY = 429, TRIES = 20, AGAIN_S = 0.5; // the agent runs one dry run at a time, and the one just cancelled may still be ending
const STRETCHES = [["Last hour", 3600], ["Last day", 86400], ["Last week", 604800], ["All stored frames", null]];

export class Editor {
  /** @param {import("./app.js").App} app @param {() => void} done called when the rule was saved or the editor closed */
  constructor(app, done) {
    this.app = app;
    this.done = done;
    this.title = h("h2", {});
    this.form = new RuleForm(field => this.#changed(field));
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.arm = h("button", { type: "submit", class: "primary" }, "Arm rule");
    this.camera = h("select", { id: "dry-camera", onchange: () => this.#try() });
    this.stretch = h("select", { id: "dry-stretch", onchange: () => this.#try() }, STRETCHES.map(([text, seconds]) => h("option", { value: seconds ?? "" }, text)));
    this.stretch.value = "86400";
    this.strip = new Strip("When the rule would have fired", {
      cursor: at => this.card.show(at && { ...at, layers: this.strip.scene.layers }),
      open: time => this.card.open(time, this.strip.scene.layers),
    });
    this.strip.node.classList.add("low");
    this.card = new FrameCard(app, () => this.camera.value);
    this.result = h("p", { role: "status" });
    this.progress = h("span", { class: "hint" }, "Asking the model…");
    this.sweep = h("div", { class: "sweep" });
    this.found = h("ul", { class: "dry-found" });
    const form = h("form", { class: "editor-form stack", onsubmit: event => { event.preventDefault(); this.#save(); } }, this.form.node, this.problem,
      h("div", { class: "row" }, this.arm, h("button", { type: "button", onclick: () => this.close() }, "Cancel")));
    const trial = h("div", { class: "stack trial" },
      h("div", { class: "row" }, h("h3", {}, "Dry run"),
        h("label", { class: "unseen", for: "dry-camera" }, "Camera"), this.camera, h("label", { class: "unseen", for: "dry-stretch" }, "How far back"), this.stretch),
      h("div", { class: "strip-box" }, this.strip.node, this.card.node),
      h("p", { class: "hint" }, "Red flags: alerts that would have fired. Grey flags: alerts that would have been held back."), this.result, this.sweep, this.found);
    this.node = h("section", { class: "panel stack editor", hidden: true, "aria-label": "Rule editor" }, this.title, h("div", { class: "editor-columns" }, form, trial));
  }

  /** @param {any|null} rule as the API gives it; null: a new one */
  open(rule) {
    this.rule = rule;
    const names = this.app.cameras.map(camera => camera.id);
    this.title.textContent = rule ? `Rule ${rule.name}` : "New rule";
    this.arm.textContent = rule ? "Save" : "Arm rule";
    this.arm.hidden = rule?.source === "config";
    this.problem.hidden = true;
    this.form.fill(rule, names);
    put(this.camera, names.map(name => h("option", {}, name)));
    const watched = rule?.cameras ?? [];
    this.camera.value = [...watched, ...this.app.state.cameras, ...names].find(name => names.includes(name)) ?? "";
    this.node.hidden = false;
    this.node.scrollIntoView({ block: "start" });
    this.form.condition.focus();
    this.#forget();
    if (rule) this.#try();
  }

  /** Close the editor. */
  close() {
    this.#rest();
    this.node.hidden = true;
    this.done();
  }

  /** Release everything: the view is being removed. */
  end() {
    this.#rest();
    this.strip.close();
  }

  #rest() {
    clearTimeout(this.resting);
    this.trying?.abort();
  }

  async #save() {
    const settings = this.form.settings();
    try {
      if (this.rule) await this.app.api.send(`/v1/rules/${this.rule.name}`, { method: "PATCH", body: settings });
      else await this.app.api.send("/v1/rules", { body: { name: this.form.name.value, ...settings } });
      this.close();
    } catch (error) {
      this.problem.hidden = false;
      this.problem.textContent = error.message;
    }
  }

  // --- the dry run ---

  #changed(field) {
    if (field === "name" || field === "snapshot") return;
    if (field === "cameras") {
      const chosen = this.form.settings().cameras;
      if (chosen.length && !chosen.includes(this.camera.value)) this.camera.value = chosen[0];
    }
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.#try(), REST_MS);
  }

  #forget() {
    this.strip.set({ layers: [], flags: [], scale: null, oldest: null });
    put(this.result, h("span", { class: "hint" }, "Type what to watch for to see when it would have fired."));
    put(this.sweep);
    put(this.found);
  }

  /** Show the result of the gate alone, then with the model. @param {boolean} [everyGate] ask the model for every gate of the sweep */
  async #try(everyGate = false) {
    this.trying?.abort();
    const { signal } = this.trying = new AbortController();
    const rule = this.form.settings(), camera = this.camera.value;
    if (!rule.condition || !camera) return this.#forget();
    const seconds = Number(this.stretch.value), after = seconds ? Date.now() / 1000 - seconds : null;
    const body = { rule, cameras: [camera], stream: true, ...(after ? { after } : {}) };
    this.strip.node.setAttribute("aria-busy", "true");
    try {
      if (!everyGate) {
        put(this.result, h("span", { class: "hint" }, "Trying the rule on the stored history…"));
        this.progress.textContent = "Asking the model…";
        await this.#drawRelevance(rule.condition, camera, after, signal);
        const gate = await this.#dryRun({ ...body, sweep: true, max_judgements: 0 }, signal);
        this.#show(gate, true);
        this.rows = gate.sweep;
      }
      const judged = await this.#dryRun({ ...body, sweep: everyGate, max_judgements: MAX_VERDICTS }, signal);
      this.#show({ ...judged, sweep: everyGate ? judged.sweep : this.rows.map(row => withVerdicts(row, judged)) }, false);
    } catch (error) {
      if (signal.aborted) return;
      put(this.result, h("span", { class: "problem" }, error.message));
    }
    if (!signal.aborted) this.strip.node.removeAttribute("aria-busy");
  }

  /** @returns {Promise<any>} the result of POST /v1/rules/dry-run */
  async #dryRun(body, signal) {
    for (let tries = 0; ; tries += 1) {
      try {
        for await (const { data } of this.app.api.events("/v1/rules/dry-run", { body, signal })) {
          if (data?.error) throw new Error(data.error.message);
          if (data?.result) return data.result;
          if (data?.progress?.judge_calls_made) this.progress.textContent = `Asking the model… ${number(data.progress.judge_calls_made)} verdicts, ${Math.round(100 * data.progress.done)} %`;
        }
        throw new Error("The dry run did not finish: the connection was lost.");
      } catch (error) {
        if (error.status !== BUSY || tries >= TRIES) throw error;
        await sleep(AGAIN_S, signal);
      }
    }
  }

  async #drawRelevance(question, camera, after, signal) {
    const oldest = this.app.cameras.find(each => each.id === camera)?.oldest ?? null;
    const query = { question, points: POINTS, keyframes: false, ...(after && after > (oldest ?? 0) ? { after } : {}) };
    const layer = await this.app.api.json(`/v1/cameras/${camera}/timeline?${new URLSearchParams(query)}`, { signal });
    const room = (layer.before - layer.after) / 50;
    this.strip.limits = this.strip.home = { after: layer.after - room, before: layer.before + room };
    this.strip.set({ layers: [layer], flags: [], oldest: layer.oldest, scale: scaleOf(layer), zone: layer.timezone });
    this.strip.look(this.strip.home);
  }

  /** @param {any} dry the result of POST /v1/rules/dry-run @param {boolean} gateOnly the model has not been asked yet */
  #show(dry, gateOnly) {
    const length = span(dry.before - dry.after);
    const openings = dry.gate_openings ? `the gate would have opened ${times(dry.gate_openings)}` : "the gate would never have opened";
    const calls = dry.judge_calls ? `, and the model would have been asked ${times(dry.judge_calls)}` : "";
    if (gateOnly) put(this.result, `In ${length} ${openings}. `, this.progress);
    else {
      const limit = dry.complete ? "" : ` The first ${number(dry.judge_calls_made)} verdicts reach to ${clock(dry.until, this.app.zone(this.camera.value))}.`;
      put(this.result, h("strong", {}, dry.alerts.length ? `Would have fired ${times(dry.alerts.length)}` : "Would not have fired"), ` in ${length}: ${openings}${calls}.${limit}`);
    }
    const flags = [...dry.suppressed.map(each => ({ start: each.time, end: each.time, suppressed: true })),
      ...dry.alerts.map(each => ({ start: each.start_time, end: each.end_time }))];
    this.strip.set({ flags });
    this.#showSweep(dry, gateOnly);
    this.#showFound(dry);
  }

  #showSweep({ sweep, rule }, gateOnly) {
    const most = Math.max(1, ...sweep.map(row => row.gate_openings));
    const bar = (count, kind) => {
      const node = h("span", { class: `bar-${kind}` });
      node.style.width = `${Math.max(count ? 2 : 0, 100 * count / most)}%`;
      return node;
    };
    const unknown = value => value === null ? "?" : number(value);
    put(this.sweep, h("table", {}, h("caption", { class: "hint" }, "Other gates"),
      h("thead", {}, h("tr", {}, ["Gate", "Opens", "Fires", "Verdicts"].map(text => h("th", { scope: "col" }, text)), h("td"))),
      h("tbody", {}, sweep.map(row => h("tr", { "aria-current": row.on === rule.gate.on && "true" },
        h("th", { scope: "row" }, h("button", { type: "button", class: "quiet", title: "Set the gate to this", onclick: () => this.#useGate(row.on) }, row.on.toFixed(1))),
        h("td", {}, number(row.gate_openings)), h("td", {}, unknown(row.alerts)), h("td", {}, unknown(row.judge_calls)),
        h("td", { class: "bars" }, bar(row.gate_openings, "opens"), bar(row.alerts ?? 0, "fires")))))),
      !gateOnly && sweep.some(row => row.alerts === null) && h("button", { type: "button", onclick: () => this.#try(true) }, "Ask the model for every gate"));
  }

  #useGate(on) {
    this.form.setGate(on);
    this.#changed("gate");
  }

  #showFound(dry) {
    const zone = this.app.zone(this.camera.value);
    put(this.found, dry.alerts.slice(-12).reverse().map(each => {
      const frame = each.frames.at(-1), at = clock(each.start_time, zone);
      return h("li", {}, h("button", { type: "button", "aria-label": `Open the frame of ${at}`, onclick: () => openFrame(this.app, { frame_id: frame.id }) },
        frame && h("img", { src: this.app.api.picture(frame.url, 240), alt: "", loading: "lazy" }), h("span", {}, at)));
    }));
  }
}

/** A row of the sweep, completed with the model's verdicts when it is the rule's own gate. */
const withVerdicts = (row, { rule, complete, alerts, judge_calls: calls }) =>
  complete && row.on === rule.gate.on ? { ...row, alerts: alerts.length, judge_calls: calls } : row;

/** "once", "3 times". @param {number} count */
const times = count => count === 1 ? "once" : `${number(count)} times`;
