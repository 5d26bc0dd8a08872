// An interactive timeline: wheel, pinch, drag and keys change the view; shift-drag or the handles choose a range. It draws
// what it was given and never waits for the network; its owner fetches data when the view rests.

import { h } from "./dom.js";
import { FLAGS, paint, palette } from "./draw.js";
import { kept, panned, toTime, toX, zoomed } from "./ticks.js";

/** @typedef {import("./ticks.js").Stretch} Stretch */

const GRIP = { mouse: 7, touch: 18 }; // distance at which a handle is grabbed, px
const CLICK = 4; // a drag shorter than this is a click, px
const ZOOM = 1.6; // one press of a key or button
const HELP = "Arrow keys move, plus and minus zoom, Home shows everything, Shift with arrows moves the cursor, comma and "
  + "full stop go to the next keyframe or visit, square brackets set the ends of a range, Escape clears it, Enter opens the frame.";

/**
 * @typedef {object} Listeners
 * @property {(view: Stretch) => void} [view] the view has changed
 * @property {(at: {time: number, x: number}|null) => void} [cursor] the pointer or the keyboard's cursor has moved
 * @property {(time: number) => void} [open] a click or Enter
 * @property {(range: Stretch|null) => void} [range] a range was chosen (when the drag ends)
 */

export class Strip {
  /** @param {string} label @param {Listeners} listeners */
  constructor(label, listeners = {}) {
    this.listeners = listeners;
    this.choosing = false; // a plain drag chooses a range, for touch screens
    this.limits = { after: 0, before: 1 }; // how far it can be moved
    this.home = this.limits; // the view of the Home key
    /** @type {import("./draw.js").Scene} */
    this.scene = { layers: [], keyframes: [], visits: [], flags: [], oldest: null, scale: null, view: { after: 0, before: 1 }, range: null, cursor: null };
    this.canvas = h("canvas");
    const help = h("span", { class: "unseen" }, HELP);
    help.id = `help-${Math.random().toString(36).slice(2)}`;
    this.node = h("div", { class: "strip", tabindex: 0, role: "application", "aria-roledescription": "timeline", "aria-label": label, "aria-describedby": help.id }, this.canvas, help);
    this.pointers = new Map(); // id -> x
    this.drag = null;
    this.ended = new AbortController();
    this.#listen();
  }

  /** Change the scene and redraw. @param {Partial<import("./draw.js").Scene>} changes */
  set(changes) {
    Object.assign(this.scene, changes);
    this.redraw();
  }

  get width() { return this.canvas.clientWidth || 1; }

  /** Show another view, kept inside the limits. @param {Stretch} view */
  look(view) {
    this.scene.view = kept(view, this.limits);
    this.redraw();
    this.listeners.view?.(this.scene.view);
  }

  /** @param {number} factor below 1: closer @param {number} [at] the moment that stays where it is */
  zoom(factor, at) {
    const { view, cursor } = this.scene;
    const seen = cursor !== null && cursor > view.after && cursor < view.before ? cursor : (view.after + view.before) / 2;
    this.look(zoomed(view, factor, at ?? seen, this.limits));
  }

  /** @param {number} share of the view's width, later if positive */
  move(share) {
    const { view } = this.scene;
    this.look(panned(view, share * (view.before - view.after), this.limits));
  }

  /** @param {number|null} time */
  point(time) {
    this.set({ cursor: time });
    this.listeners.cursor?.(time === null ? null : { time, x: toX(time, this.scene.view, this.width) });
  }

  /** @param {Stretch|null} range */
  choose(range) {
    this.set({ range });
    this.listeners.range?.(range);
  }

  redraw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = undefined;
      this.#paint();
    });
  }

  close() {
    this.ended.abort();
    this.size.disconnect();
    if (this.waiting) cancelAnimationFrame(this.waiting);
  }

  #paint() {
    const { canvas } = this, ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.colours ??= palette(this.node);
    paint(ctx, width, height, this.scene, this.colours);
    const { after, before } = this.scene.view;
    Object.assign(this.node.dataset, { after: after.toFixed(3), before: before.toFixed(3) });
  }

  #listen() {
    const { canvas, node } = this, { signal } = this.ended;
    const on = (name, fn, options = {}) => canvas.addEventListener(name, fn, { signal, ...options });
    on("pointerdown", event => this.#press(event));
    on("pointermove", event => this.#shift(event));
    on("pointerup", event => this.#release(event));
    on("pointercancel", event => this.#release(event));
    on("pointerleave", event => { if (event.pointerType !== "touch" && !this.pointers.size) this.point(null); });
    on("wheel", event => this.#wheel(event), { passive: false });
    document.addEventListener("pointerdown", event => { // a tap elsewhere hides the card
      if (this.scene.cursor !== null && !(node.parentElement ?? node).contains(event.target)) this.point(null);
    }, { signal });
    node.addEventListener("keydown", event => this.#key(event), { signal });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.colours = undefined; this.redraw(); }, { signal });
    this.size = new ResizeObserver(() => this.redraw());
    this.size.observe(canvas);
  }

  // --- pointers ---

  #at(event) { return event.clientX - this.canvas.getBoundingClientRect().left; }

  #time(x) { return toTime(x, this.scene.view, this.width); }

  /** The time at the pointer; on the mark of a visit, the time of its peak. */
  #pointed(event) {
    const x = this.#at(event), time = this.#time(x), { view, visits } = this.scene;
    const y = event.clientY - this.canvas.getBoundingClientRect().top;
    const grip = event.pointerType === "touch" ? GRIP.touch : GRIP.mouse;
    const apart = visit => Math.abs(toX(visit.peak, view, this.width) - x);
    const near = visits.filter(visit => apart(visit) <= grip || (y < FLAGS && time >= visit.start && time <= visit.end));
    return near.length ? near.reduce((best, each) => apart(each) < apart(best) ? each : best).peak : time;
  }

  /** The end of the range that a pointer at `x` grabs: "after", "before" or null. */
  #handle(x, type) {
    const { range, view } = this.scene;
    if (!range) return null;
    const grip = type === "touch" ? GRIP.touch : GRIP.mouse;
    return ["before", "after"].find(end => Math.abs(toX(range[end], view, this.width) - x) <= grip) ?? null;
  }

  #press(event) {
    if (event.button !== 0) return;
    const x = this.#at(event);
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, x);
    if (this.pointers.size === 2) return this.#pinch();
    const handle = this.#handle(x, event.pointerType);
    const { range, view } = this.scene;
    if (handle) this.drag = { kind: "range", fixed: handle === "after" ? range.before : range.after, x, moved: true };
    else if (event.shiftKey || this.choosing) this.drag = { kind: "range", fixed: this.#time(x), x, moved: false };
    else this.drag = { kind: "pan", x, view, moved: false };
  }

  #pinch() {
    const [a, b] = [...this.pointers.values()];
    const middle = (a + b) / 2;
    this.drag = { kind: "pinch", apart: Math.max(Math.abs(a - b), 1), at: this.#time(middle), view: this.scene.view, moved: true };
  }

  #shift(event) {
    const x = this.#at(event);
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, x);
    const { drag } = this;
    if (!drag) {
      this.canvas.style.cursor = this.#handle(x, event.pointerType) ? "ew-resize" : "";
      return this.point(this.#pointed(event));
    }
    if (drag.kind === "pinch") return this.#spread(drag);
    drag.moved ||= Math.abs(x - drag.x) > CLICK;
    if (!drag.moved) return;
    if (drag.kind === "pan") {
      const { after, before } = drag.view;
      this.scene.cursor = null;
      this.listeners.cursor?.(null);
      this.look(panned(drag.view, (drag.x - x) / this.width * (before - after), this.limits));
    } else this.set({ range: ordered(drag.fixed, this.#time(Math.min(Math.max(x, 0), this.width))) });
  }

  #spread(drag) {
    const [a, b] = [...this.pointers.values()];
    const factor = drag.apart / Math.max(Math.abs(a - b), 1), span = (drag.view.before - drag.view.after) * factor;
    const after = drag.at - (a + b) / 2 / this.width * span; // keep the moment between the fingers in its place
    this.look({ after, before: after + span });
  }

  #release(event) {
    const { drag } = this;
    const x = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (!drag || x === undefined) return;
    const [left] = this.pointers.values();
    this.drag = left === undefined ? null : { kind: "pan", x: left, view: this.scene.view, moved: true }; // one finger is still down
    if (this.drag) return;
    if (event.type === "pointercancel") return;
    if (drag.kind === "range" && drag.moved) return this.choose(this.scene.range);
    if (drag.moved) return;
    const time = this.#pointed(event);
    this.point(time);
    if (event.pointerType !== "touch") this.listeners.open?.(time); // a tap shows the card, which has a button to open the frame
  }

  #wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) return this.move(event.deltaX * unit / this.width);
    this.zoom(Math.exp(Math.min(Math.max(event.deltaY * unit, -240), 240) / 300), this.#time(this.#at(event)));
  }

  // --- keys ---

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = this.#action(event);
    if (!act) return;
    event.preventDefault();
    act();
  }

  #action(event) {
    const { view, cursor, range } = this.scene, span = view.before - view.after;
    const here = cursor ?? (view.after + view.before) / 2;
    const step = event.shiftKey ? share => this.#follow(here + share * span / 10) : share => this.move(share);
    return {
      ArrowLeft: () => step(-0.1), ArrowRight: () => step(0.1),
      "+": () => this.zoom(1 / ZOOM), "=": () => this.zoom(1 / ZOOM), "-": () => this.zoom(ZOOM), _: () => this.zoom(ZOOM),
      Home: () => this.look(this.home),
      End: () => this.look({ after: this.home.before - span, before: this.home.before }),
      ",": () => this.#toMark(here, -1), ".": () => this.#toMark(here, 1),
      "[": () => this.choose(ordered(here, range?.before ?? view.before)),
      "]": () => this.choose(ordered(range?.after ?? view.after, here)),
      Escape: range || cursor !== null ? () => { this.choose(null); this.point(null); } : undefined,
      Enter: cursor === null ? undefined : () => this.listeners.open?.(cursor),
    }[event.key];
  }

  #toMark(here, direction) {
    const { keyframes, visits } = this.scene;
    const times = [...keyframes.map(each => each.time), ...visits.map(each => each.peak)].filter(time => (time - here) * direction > 0.001);
    if (times.length) this.#follow(direction > 0 ? Math.min(...times) : Math.max(...times));
  }

  /** Put the cursor there and bring it into view. */
  #follow(time) {
    const at = Math.min(Math.max(time, this.limits.after), this.limits.before);
    const { view } = this.scene, span = view.before - view.after;
    if (at < view.after || at > view.before) this.look({ after: at - span / 2, before: at + span / 2 });
    this.point(at);
  }
}

/** @returns {Stretch} */
const ordered = (a, b) => ({ after: Math.min(a, b), before: Math.max(a, b) });
