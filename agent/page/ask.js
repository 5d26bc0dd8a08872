// The view for questions: cameras and time range, the conversation, and the frames each answer cites.

import { Away } from "./api.js";
import { clock, h, number, period, put } from "./dom.js";
import { openFrame, outline } from "./frame.js";
import { markdown } from "./markdown.js";
import { inWords, scopeChips, scopePicker } from "./scope.js";

const SHOWN = 12; // frames of an answer shown before "Show all"
const VISITS = 8; // visits named below an answer
const THUMB = 320; // pixels across
const LOOKING = "Looking…";
const MAX_TURNS = 4; // earlier questions sent with a follow-up
const EXAMPLES = ["What can you see at the moment?", "Did a person ever come?", "How many cars came?"];
const STAGES = { queue: "waiting for its turn", embed: "reading the question", window: "opening the memory", select: "choosing frames", reencode: "encoding frames",
  merge: "merging frames", pictures: "preparing pictures", first_token: "first word", generate: "rest of the answer", total: "total" };

/** @param {HTMLElement} root @param {import("./app.js").App} app */
export function mount(root, app) {
  const view = new Ask(root, app);
  return { unmount: () => view.close(), show: () => view.show() };
}

class Ask {
  constructor(root, app) {
    this.app = app;
    this.turns = []; // {question, answer} of complete answers
    this.erased = app.on("erased", camera => this.shown.forEach(turn => turn.recheck(camera)));
    this.shown = []; // turns that are on the page
    this.running = null; // AbortController of the answer in progress
    this.scope = scopePicker(app);
    this.empty = h("div", { class: "empty" }, h("strong", {}, "Ask about what the cameras saw"),
      h("p", {}, "The answer shows the frames it is based on."),
      h("div", { class: "row examples" }, EXAMPLES.map(text => h("button", { type: "button", onclick: () => this.ask(text) }, text))));
    this.list = h("div", { class: "stack turns" });
    this.input = h("textarea", { id: "question", rows: 1, maxlength: 2000, required: true, placeholder: "Did a red car come?" });
    this.send = h("button", { class: "primary", type: "submit" }, "Ask");
    this.stop = h("button", { type: "button", hidden: true, onclick: () => this.running?.abort() }, "Stop");
    this.fresh = h("button", { class: "quiet", type: "button", hidden: true, onclick: () => this.#forget() }, "New conversation");
    this.hint = h("p", { class: "hint" });
    const form = h("form", { class: "panel composer" }, h("label", { for: "question", class: "unseen" }, "Question"), h("div", { class: "entry" }, this.input, this.stop, this.send),
      h("div", { class: "head" }, this.hint, this.fresh));
    form.addEventListener("submit", event => { event.preventDefault(); this.ask(this.input.value.trim()); });
    this.input.addEventListener("input", () => this.#grow());
    this.input.addEventListener("keydown", event => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
    });
    put(root, h("h2", {}, "Ask"), this.scope.root, this.empty, this.list, form);
    app.api.json("/v1/models").then(({ data }) => { this.conversations = data[0].vilamp.conversations; this.#hint(); }).catch(() => {});
  }

  show() {
    this.input.focus({ preventScroll: true });
    if (this.app.state.question && !this.input.value && !this.turns.length) this.input.value = this.app.state.question;
  }

  close() {
    this.running?.abort();
    this.erased();
    this.scope.close();
  }

  #grow() { this.input.rows = Math.min(6, this.input.value.split("\n").length); }

  #forget() {
    this.running?.abort();
    this.turns = [];
    this.shown = [];
    put(this.list);
    this.empty.hidden = false;
    this.fresh.hidden = true;
    this.#hint();
  }

  #hint() {
    const alone = "This model reads each question alone, without the conversation.";
    this.hint.textContent = !this.turns.length ? "Enter sends the question, Shift+Enter starts a new line."
      : this.conversations ? "The questions and answers above are sent with a follow-up." : alone;
  }

  /** @param {string} question @param {object} [changed] fields of the request that differ from the choice above */
  async ask(question, changed = {}) {
    if (!question || this.running) return;
    const turn = new Turn(this.app, question, {
      again: fields => this.ask(question, { ...changed, ...fields }),
      change: () => { this.input.value = question; this.#grow(); this.scope.root.scrollIntoView({ block: "start" }); this.scope.root.querySelector("select").focus(); },
    }, text => this.ask(text));
    this.app.state.question = question;
    this.app.emit("state");
    this.empty.hidden = true;
    this.list.append(turn.root);
    this.shown.push(turn);
    this.input.value = "";
    this.#grow();
    this.#busy(new AbortController());
    turn.root.scrollIntoView({ block: "start" });
    try {
      await turn.run({ ...this.#body(question), ...changed }, this.running.signal);
      if (turn.whole) this.turns.push({ question, answer: turn.text, cited: turn.cited });
    } finally {
      this.#busy(null);
      this.#hint();
      turn.root.scrollIntoView({ block: "start" });
    }
  }

  #busy(controller) {
    this.running = controller;
    this.send.hidden = Boolean(controller);
    this.stop.hidden = !controller;
    this.fresh.hidden = Boolean(controller) || !this.list.children.length;
    const at = document.activeElement;
    if (!controller && (at === document.body || !at?.checkVisibility())) this.input.focus({ preventScroll: true }); // "Stop" had it
  }

  #body(question) {
    const said = this.turns.slice(-MAX_TURNS).flatMap(turn => [{ role: "user", content: turn.question }, { role: "assistant", content: turn.answer, annotations: turn.cited }]);
    const { after, before } = this.app.window(), { cameras } = this.app.state;
    return { messages: [...said, { role: "user", content: question }], stream: true,
      ...(cameras.length && { cameras }), ...(after !== null && { after }), ...(before !== null && { before }) };
  }
}

/** One question with its answer and evidence. */
class Turn {
  constructor(app, question, scope, ask) {
    this.app = app;
    this.onScope = scope; // what the chips do
    this.ask = ask; // asks one of the offered questions
    this.text = "";
    this.whole = false;
    this.thumbs = []; // {image, frame} of the pictures on the page
    this.cited = []; // frames of the answer, which a follow-up sends along
    const { cameras, window } = app.state;
    const where = cameras.length ? cameras.join(", ") : "all cameras";
    this.searched = h("p", { class: "hint row searched" }, `${where} · ${inWords(window, app.zone())}`);
    this.answer = h("div", { class: "answer", "aria-busy": "true" });
    this.status = h("p", { class: "soft", role: "status" }, LOOKING);
    this.visits = h("p", { class: "visits", hidden: true });
    this.offers = h("div", { class: "row offers", hidden: true });
    this.evidence = h("div", { class: "stack" });
    this.notes = h("ul", { class: "notes hint" });
    this.timings = h("div", {});
    this.root = h("article", { class: "panel turn stack" }, h("div", {}, h("h3", {}, question),
      this.searched), this.answer, this.offers, this.status, this.visits, this.evidence, this.notes, this.timings);
  }

  /** Ask, and show the answer as it arrives. Shows errors; throws none. @param {object} body @param {AbortSignal} signal */
  async run(body, signal) {
    const began = performance.now();
    try {
      for await (const { data, step } of this.app.api.events("/v1/chat/completions", { body, signal })) {
        if (step) this.#step(step);
        else if (data === null) this.whole = true;
        else this.#take(data, began);
      }
      if (!this.whole && !this.failed) this.#fail("The answer is incomplete: the agent was stopped or restarted. Ask again.");
      else if (!this.failed) this.status.hidden = true;
    } catch (error) {
      this.#fail(signal.aborted ? "Stopped." : this.#advice(error));
    } finally {
      this.answer.setAttribute("aria-busy", "false");
    }
  }

  #advice(error) {
    if (error instanceof Away) return this.text ? "The answer is incomplete: the connection was lost. Ask again." : error.message;
    if (error.searched) put(this.searched, scopeChips(this.app, error.searched, this.onScope));
    if (error.status === 401) return "The agent does not accept this token (any more). Enter another one and ask again.";
    return `${error.message}${error.retryAfter ? ` Try again in ${error.retryAfter} s.` : ""}`;
  }

  #fail(message) {
    this.failed = true;
    this.status.hidden = false;
    this.status.className = message === "Stopped." ? "soft" : "problem";
    this.status.textContent = message;
  }

  /** Say what is being done, until the first word of the answer. @param {string} text */
  #step(text) {
    this.status.textContent = `${text}…`;
    this.status.hidden = false;
  }

  #take(chunk, began) {
    if (chunk.error) return this.#fail(chunk.error.message);
    const delta = chunk.choices?.[0]?.delta ?? {};
    if (delta.content) {
      if (!this.text) { this.firstMs = performance.now() - began; this.status.hidden = true; }
      this.text += delta.content;
      put(this.answer, markdown(this.text));
    }
    if (delta.annotations) {
      this.cited = delta.annotations.map(({ type, frame_id }) => ({ type, frame_id }));
      this.#showEvidence(delta.annotations);
      if (!this.text && this.status.textContent === LOOKING) this.#step(`Frames chosen. Waiting for the model to read them`);
    }
    if (chunk.vilamp?.scope) put(this.searched, scopeChips(this.app, chunk.vilamp.scope, this.onScope));
    if (!chunk.vilamp?.notes) return;
    this.#showVisits(chunk.vilamp.visits);
    this.#showOffers(chunk.vilamp.reading?.offers ?? []);
    this.#showNotes(chunk.vilamp);
  }

  #showEvidence(frames) {
    const best = [...frames].sort((a, b) => b.score - a.score).slice(0, SHOWN).sort((a, b) => a.time - b.time);
    const list = h("ul", { class: "evidence" });
    const fill = some => { this.thumbs = []; put(list, some.map(frame => this.#thumb(frame))); };
    const more = h("button", { type: "button", class: "quiet", onclick: () => { fill(frames); more.remove(); } }, `Show all ${frames.length} frames`);
    fill(best);
    put(this.evidence, list, frames.length > best.length && more);
  }

  #thumb(frame) {
    const at = clock(frame.time, this.app.zone(frame.camera));
    const image = h("img", { src: this.app.api.picture(frame.url, THUMB), alt: "", loading: "lazy" });
    image.addEventListener("error", () => this.#again(image, frame), { once: true });
    this.thumbs.push({ image, frame });
    return h("li", {}, h("button", { type: "button", class: "picture", "aria-label": `${frame.kind} frame of ${frame.camera} at ${at}`, onclick: () => openFrame(this.app, frame) }, image, outline(image, frame.boxes)),
      h("p", { class: "caption" }, h("span", { class: `chip ${frame.kind}` }, frame.kind), h("span", {}, `${this.app.cameras.length > 1 ? `${frame.camera} ` : ""}${at}`),
        h("span", { class: "soft", title: "similarity to the question (cosine)" }, frame.score.toFixed(2))));
  }

  /** Show questions that would be understood, each as a button that asks it. @param {string[]} offers */
  #showOffers(offers) {
    this.offers.hidden = !offers.length;
    if (offers.length) put(this.answer, markdown(this.text.split("\n- ")[0])); // the list of offers becomes the buttons
    put(this.offers, offers.map(text => h("button", { type: "button", onclick: () => this.ask(text) }, text)));
  }

  /** Name the strongest of the visits that stand out, each as a button that opens the frame at its peak. */
  #showVisits(visits) {
    const clear = visits.filter(visit => visit.is_clear);
    const shown = clear.toSorted((a, b) => b.strength - a.strength).slice(0, VISITS).sort((a, b) => a.start - b.start);
    const severalCameras = new Set(clear.map(visit => visit.camera)).size > 1;
    const name = ({ camera, start, end }) => `${severalCameras ? `${camera} ` : ""}${period(start, end, this.app.zone(camera), "-")}`;
    const button = visit => h("button", { type: "button", class: "quiet", title: "Open the frame at its peak",
      onclick: () => openFrame(this.app, { frame_id: visit.frame_id }) }, name(visit));
    this.visits.hidden = !shown.length;
    put(this.visits, "Stood out: ", shown.flatMap((visit, n) => [n > 0 && ", ", button(visit)]), clear.length > shown.length && ` and ${clear.length - shown.length} more`);
  }

  /** Check the shown pictures of a camera whose frames were erased. @param {string} camera */
  recheck(camera) {
    for (const { image, frame } of this.thumbs) if (frame.camera === camera && image.isConnected) this.#again(image, frame);
  }

  /** Reload a picture: its URL has expired, or its frame was deleted. */
  async #again(image, { frame_id: id }) {
    const gone = words => image.replaceWith(h("span", { class: "gone" }, words));
    image.addEventListener("error", () => gone("No picture"));
    try {
      image.src = this.app.api.picture((await this.app.api.json(`/v1/frames/${id}`)).url, THUMB);
    } catch (error) { gone(error.status === 404 ? "Forgotten" : "No picture"); }
  }

  #showNotes({ frames, oldest, newest, notes, steps, timings_ms: timings }) {
    const zone = this.app.zone();
    put(this.notes, frames > 0 && h("li", {}, `${number(frames)} frames from ${clock(oldest, zone)} to ${clock(newest, zone)}`), notes.map(note => h("li", {}, note)));
    const rows = Object.entries({ ...timings, "seen in this browser": this.firstMs }).map(([stage, ms]) =>
      h("tr", {}, h("td", {}, STAGES[stage] ?? (stage === "seen in this browser" ? "first character in this browser" : stage)), h("td", { class: "num" }, `${number(Math.round(ms))} ms`)));
    put(this.timings, h("details", {}, h("summary", {}, `Answered in ${(timings.total / 1000).toFixed(1)} s`),
      steps.length > 0 && h("ol", { class: "hint" }, steps.map(step => h("li", {}, step))), h("table", {}, rows)));
  }
}
