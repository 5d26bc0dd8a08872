// The view with the timeline of a camera: relevance to a question, its visits, and the keyframes an answer would use.

import { clock, h, number, period, put, span } from "./dom.js";
import { scaleOf } from "./draw.js";
import { FrameCard } from "./framecard.js";
import { Strip } from "./strip.js";

const REST_MS = 140; // details are fetched when the view has rested this long
const OVERVIEW_POINTS = 1200, MAX_POINTS = 4000;
const MARGIN = 1; // views fetched on either side, so that dragging shows data at once
const KEYFRAMES_EVERY_S = 30; // while new frames come in
const SPANS = [["1 min", 60], ["1 h", 3600], ["1 day", 86400], ["1 week", 604800]];

/** @param {HTMLElement} root @param {import("./app.js").App} app */
export function mount(root, app) {
  const view = new Timeline(root, app);
  return { unmount: () => view.close(), show: () => view.show(), hide: () => view.hide() };
}

class Timeline {
  /** @param {HTMLElement} root @param {import("./app.js").App} app */
  constructor(root, app) {
    this.app = app;
    this.camera = "";
    this.question = app.state.question;
    this.history = null; // the response for the whole history
    this.shown = false;
    this.strip = new Strip("Relevance over time", {
      view: () => this.#viewChanged(),
      cursor: at => this.card.show(at && { ...at, layers: this.strip.scene.layers, visits: this.strip.scene.visits, scale: this.strip.scene.scale }),
      open: time => this.#open(time),
      range: range => this.#rangeChosen(range),
    });
    this.card = new FrameCard(app, () => this.camera);
    this.#build(root);
    this.ends = [app.on("cameras", () => this.#camerasRenewed()), app.on("state", () => this.#stateChanged()),
      app.on("erased", camera => { if (camera === this.camera) { this.card.forget(); this.#pick(camera); } })];
  }

  show() {
    this.shown = true;
    this.#camerasRenewed();
    this.#stateChanged();
  }

  hide() { this.shown = false; }

  close() {
    this.ends.forEach(end => end());
    this.strip.close();
    clearTimeout(this.resting);
    this.loading?.abort();
    this.refining?.abort();
    this.marking?.abort();
  }

  #build(root) {
    this.select = h("select", { id: "timeline-camera", onchange: () => this.#pick(this.select.value) });
    this.input = h("input", { id: "timeline-question", type: "search", maxlength: 2000, placeholder: "a red car at the gate", value: this.question, autocomplete: "off" });
    const form = h("form", { class: "panel timeline-ask", onsubmit: event => { event.preventDefault(); this.#ask(this.input.value.trim()); } },
      h("div", { class: "field" }, h("label", { for: "timeline-camera" }, "Camera"), this.select),
      h("div", { class: "field grow" }, h("label", { for: "timeline-question" }, "Relevance to"), this.input),
      h("button", { class: "primary", type: "submit" }, "Show"));
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.empty = h("p", { class: "empty", hidden: true });
    this.summary = h("p", { class: "hint", role: "status" });
    this.list = h("div", { class: "scroll" });
    this.listed = h("details", { class: "panel" }, h("summary", {}, "Keyframes, visits, gaps and alerts as a list"), this.list);
    this.body = h("div", { class: "panel stack", hidden: true }, this.#tools(), h("div", { class: "strip-box" }, this.strip.node, this.card.node), legend(), this.summary);
    put(root, form, this.problem, this.empty, this.body, this.listed);
  }

  #tools() {
    const button = (label, text, act, kind = null) => h("button", { type: "button", class: kind, "aria-label": label, title: label, onclick: act }, text);
    this.choosing = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.#setChoosing(!this.strip.choosing) }, "Choose range");
    this.rangeText = h("span", { class: "hint" });
    this.rangeTools = h("span", { class: "row", hidden: true }, this.rangeText,
      h("button", { type: "button", class: "primary", onclick: () => this.app.navigate("ask") }, "Ask about it"),
      h("button", { type: "button", class: "quiet", onclick: () => this.strip.choose(null) }, "Clear range"));
    return h("div", { class: "head" },
      h("div", { class: "row tools" },
        button("Earlier", "←", () => this.strip.move(-0.5), "pan"), button("Later", "→", () => this.strip.move(0.5), "pan"),
        button("Zoom out", "−", () => this.strip.zoom(2)), button("Zoom in", "+", () => this.strip.zoom(0.5)),
        h("button", { type: "button", onclick: () => this.strip.look(this.strip.home) }, "All"),
        SPANS.map(([text, seconds]) => h("button", { type: "button", class: "quiet", onclick: () => this.#newest(seconds) }, text)),
        this.choosing),
      this.rangeTools);
  }

  // --- what is asked ---

  #camerasRenewed() {
    const names = this.app.cameras.map(camera => camera.id);
    if (names.join() !== [...this.select.options].map(option => option.value).join()) put(this.select, names.map(name => h("option", {}, name)));
    if (!names.length) return this.#say("No camera has sent anything yet.", "Its history will appear here.");
    if (!names.includes(this.camera)) return this.#pick(this.app.state.cameras.find(name => names.includes(name)) ?? names[0]);
    const newest = this.app.cameras.find(camera => camera.id === this.camera)?.newest ?? null;
    const behind = newest !== (this.history?.newest ?? null) || !this.problem.hidden; // try again after a failure
    if (this.shown && !this.busy && behind) this.#load();
  }

  #stateChanged() {
    const { state } = this.app;
    const asked = state.question !== this.asked;
    this.asked = state.question;
    const range = state.window.kind === "range" && state.window.after !== null && state.window.before !== null
      ? { after: state.window.after, before: state.window.before } : null;
    const window = JSON.stringify(state.window), moved = window !== this.askedWindow;
    this.askedWindow = window;
    if (moved) this.#showRange(range);
    if (asked && state.question && state.question !== this.question) {
      this.input.value = state.question;
      this.#ask(state.question);
    } else if (moved && this.history) this.#loadKeyframes();
  }

  #pick(camera) {
    this.camera = this.select.value = camera;
    this.marking?.abort();
    this.strip.set({ layers: [], keyframes: [], visits: [], flags: [], zone: this.app.zone(camera) });
    this.history = null;
    this.#load();
  }

  #ask(question) {
    this.question = question;
    this.marking?.abort();
    this.strip.set({ keyframes: [], visits: [] });
    this.#load();
  }

  #open(time) { this.card.open(time, this.strip.scene.layers, this.strip.scene.visits); }

  #newest(seconds) {
    const { before } = this.strip.home;
    this.strip.look({ after: before - seconds, before });
  }

  // --- loading ---

  #get(query, signal) {
    const given = Object.entries({ ...query, question: this.question || null }).filter(([, value]) => value !== null);
    return this.app.api.json(`/v1/cameras/${this.camera}/timeline?${new URLSearchParams(given)}`, { signal });
  }

  /** Load the whole history. The first time it is all shown; later the view stays. */
  async #load() {
    this.loading?.abort();
    this.refining?.abort();
    const { signal } = this.loading = new AbortController();
    this.busy = true;
    this.strip.node.setAttribute("aria-busy", "true");
    try {
      const asked = this.question;
      const history = await this.#get({ points: OVERVIEW_POINTS, keyframes: false }, signal);
      const fresh = this.history === null, edge = this.history?.newest ?? null, zoomedOut = this.strip.scene.view === this.strip.home;
      this.history = history.oldest === null ? null : history;
      this.problem.hidden = true;
      if (history.oldest === null) return this.#say(`No frames of ${this.camera} are stored.`, "Frames appear here as soon as they arrive.");
      this.empty.hidden = true;
      this.body.hidden = this.listed.hidden = false;
      this.#setLimits(history);
      this.strip.set({ layers: [history], flags: history.alerts, oldest: history.oldest, scale: scaleOf(history), zone: history.timezone });
      if (fresh || zoomedOut) this.#home();
      else this.#followEdge(edge);
      if (fresh || asked !== this.keyframesOf?.question || Date.now() - this.keyframesOf.at > KEYFRAMES_EVERY_S * 1000) await this.#loadKeyframes();
      this.#describe();
    } catch (error) { this.#fail(error); } finally {
      if (!signal.aborted) {
        this.strip.node.removeAttribute("aria-busy");
        this.busy = false;
      }
    }
  }

  /** Load the keyframes and the visits; a newer request cancels this one. */
  async #loadKeyframes() {
    this.marking?.abort();
    const { signal } = this.marking = new AbortController();
    this.keyframesOf = { question: this.question, at: Date.now() };
    try {
      const { after, before } = this.app.window();
      const found = this.question ? await this.#get({ points: 1, after, before }, signal) : { keyframes: [], visits: [] };
      this.strip.set({ keyframes: found.keyframes, visits: found.visits });
      this.#describe();
    } catch (error) { this.#fail(error); }
  }

  #viewChanged() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.#loadDetail(), REST_MS);
  }

  async #loadDetail() {
    this.refining?.abort();
    if (!this.history || !this.camera) return;
    const { view } = this.strip.scene, length = view.before - view.after;
    const { signal } = this.refining = new AbortController();
    const points = Math.min(MAX_POINTS, Math.ceil(this.strip.width * (1 + 2 * MARGIN)));
    try {
      const detail = await this.#get({ after: view.after - MARGIN * length, before: view.before + MARGIN * length, points, keyframes: false }, signal);
      this.strip.set({ layers: [this.history, detail] });
    } catch (error) { this.#fail(error); }
  }

  #setLimits({ oldest, newest }) {
    const now = Date.now() / 1000, length = Math.max(newest - oldest, 10);
    this.strip.limits = { after: oldest - 0.1 * length, before: Math.max(newest, now) + 0.1 * length };
    const silent = Math.max(0, now - newest); // show the silence since the newest frame, unless it is much longer than the history
    this.home = { after: oldest - 0.02 * length, before: newest + Math.max(0.02 * length, silent < 0.15 * length ? silent : 0) };
  }

  #home() {
    this.strip.home = this.home;
    this.strip.look(this.home);
    this.strip.home = this.strip.scene.view;
  }

  /** Keep the newest frame, while it is visible, where it is on the screen. */
  #followEdge(edge) {
    const { view } = this.strip.scene;
    this.strip.home = this.home;
    const inSight = edge !== null && edge >= view.after && edge <= view.before;
    if (inSight && !this.strip.drag) this.strip.look({ after: view.after + this.history.newest - edge, before: view.before + this.history.newest - edge });
    else this.#viewChanged();
  }

  // --- ranges ---

  #setChoosing(on) {
    this.strip.choosing = on;
    this.choosing.setAttribute("aria-pressed", String(on));
  }

  #rangeChosen(range) {
    this.#setChoosing(false);
    this.#showRange(range);
    if (this.camera && range) this.app.state.cameras = [this.camera];
    this.app.state.window = range ? { kind: "range", ...range } : { kind: "all" };
    this.app.emit("state");
  }

  #showRange(range) {
    this.strip.set({ range });
    this.rangeTools.hidden = !range;
    const zone = this.app.zone(this.camera);
    if (range) this.rangeText.textContent = `${clock(range.after, zone)} to ${clock(range.before, zone)} (${span(range.before - range.after)})`;
  }

  // --- words ---

  #say(what, more) {
    this.body.hidden = this.listed.hidden = true;
    this.empty.hidden = false;
    put(this.empty, h("strong", {}, what), more);
  }

  #fail(error) {
    if (error.name === "AbortError") return;
    this.problem.hidden = false;
    this.problem.textContent = error.message;
  }

  #describe() {
    const { history, strip: { scene } } = this;
    if (!history) return;
    const zone = history.timezone, { kind } = this.app.state.window;
    const chosen = kind === "all" ? "the whole history" : scene.range ? "the chosen range" : "the time chosen for questions";
    const about = this.question
      ? `An answer over ${chosen} would see ${number(scene.keyframes.length)} keyframes.`
      : "Type something above to see when a camera saw it.";
    const stands = scene.visits.filter(visit => visit.is_clear).length;
    const visits = !this.question ? "" : !scene.visits.length ? " Nothing stands out of this camera's noise."
      : ` ${number(scene.visits.length)} ${scene.visits.length > 1 ? "visits" : "visit"}, of which ${number(stands)} ${stands === 1 ? "stands" : "stand"} out.`;
    const waiting = history.unencoded ? ` ${number(history.unencoded)} frames are not encoded yet.` : "";
    this.summary.textContent = `${number(history.frames)} frames over ${span(history.newest - history.oldest)}. ${about}${visits}${waiting}`;
    if (!this.list.contains(document.activeElement)) put(this.list, entries(scene, history, zone, time => { this.strip.point(null); this.#open(time); }));
  }
}

/** The marks of the timeline as a table. */
function entries(scene, history, zone, open) {
  const rows = [
    ...scene.keyframes.map(each => [each.time, h("span", { class: `chip ${each.kind}` }, each.kind), each.score.toFixed(3)]),
    ...scene.visits.map(each => [each.peak, "visit", `${period(each.start, each.end, zone)}${each.is_clear ? ", stands out" : ""}`]),
    ...history.gaps.map(([start, end]) => [start, "gap", `nothing received for ${span(end - start)}`]),
    ...scene.flags.map(each => [each.start, h("span", { class: "chip bad" }, "alert"), each.message ?? each.rule]),
  ].sort((a, b) => a[0] - b[0]);
  if (!rows.length) return h("p", { class: "hint" }, "Nothing is marked.");
  return h("table", { class: "marks" },
    h("thead", {}, h("tr", {}, ["Time", "Mark", "Score or reason"].map(text => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map(([time, kind, what]) => h("tr", {},
      h("td", {}, h("button", { type: "button", class: "quiet", onclick: () => open(time) }, clock(time, zone))), h("td", {}, kind), h("td", {}, what)))));
}

function legend() {
  const items = [["area", "relevance in units of this camera's noise: best and mean"], ["limit", "what noise alone hardly reaches"], ["visit", "visit, faint unless it stands out"], ["relevant", "relevant keyframe"], ["recent", "recent keyframe"], ["filling", "filling keyframe"], ["gap", "nothing received"], ["flag", "alert"]];
  return h("ul", { class: "legend" }, items.map(([kind, text]) => h("li", { class: `key-${kind}` }, text)));
}
