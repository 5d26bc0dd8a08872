// The card at the cursor of a timeline: the frame there, its time and its relevance.

import { clock, h, period, put } from "./dom.js";
import { openFrame } from "./frame.js";
import { units } from "./draw.js";
import { nearest } from "./ticks.js";

const HOVER_MS = 70; // the pointer rests this long before a picture is fetched
const HELD = 200; // picture URLs kept
const EXPIRES_MS = 20 * 60_000; // signed URLs are fetched again long before they expire

export class FrameCard {
  /** @param {import("./app.js").App} app @param {() => string} camera */
  constructor(app, camera) {
    this.app = app;
    this.camera = camera;
    this.picture = h("img", { alt: "" });
    this.text = h("p", { "aria-live": "polite" });
    this.node = h("div", { class: "frame-card", hidden: true }, this.picture, this.text,
      h("button", { type: "button", class: "quiet open", onclick: () => this.#openFrame(this.frameId) }, "Open"));
    this.known = new Map(); // frame id -> { url, at }
  }

  /** Drop all pictures, because some may have been erased. */
  forget() {
    this.known.clear();
    this.frameId = null;
    this.picture.removeAttribute("src");
    this.show(null);
  }

  /** @param {{time: number, x: number, layers: import("./draw.js").Layer[], visits?: import("./draw.js").Visit[], scale?: import("./draw.js").Scale|null}|null} at null: nothing to show */
  show(at) {
    clearTimeout(this.resting);
    const visit = at && visitAt(at.time, at.visits ?? []);
    const point = at && (peakOf(visit, at.time, at.layers) ?? pointAt(at.time, at.layers));
    this.node.hidden = !point;
    if (!point) return;
    const zone = this.app.zone(this.camera());
    const score = point.max === null ? null : h("span", { class: "score" }, point.max.toFixed(3));
    const times = point.max !== null && at.scale ? h("span", { class: "soft" }, `${Math.round(units(point.max, at.scale))} × noise`) : null;
    put(this.text, h("span", {}, precise(point.time, zone)), score, times, point.count > 1 && h("span", { class: "soft" }, `best of ${point.count}`),
      visit && h("span", { class: "visit" }, `visit ${period(visit.start, visit.end, zone)}`));
    this.#place(at.x);
    if (point.frame_id === this.frameId) return;
    this.frameId = point.frame_id;
    this.picture.classList.add("old");
    this.resting = setTimeout(() => this.#load(point.frame_id), HOVER_MS);
  }

  /** Open the frame at `time` large. @param {number} time @param {import("./draw.js").Layer[]} layers @param {import("./draw.js").Visit[]} [visits] */
  open(time, layers, visits = []) {
    const point = visits.find(visit => visit.peak === time) ?? pointAt(time, layers, Infinity);
    if (point) this.#openFrame(point.frame_id);
  }

  #openFrame(frameId) { openFrame(this.app, { frame_id: frameId }); }

  #place(x) {
    const room = this.node.parentElement?.clientWidth ?? 0, width = this.node.offsetWidth;
    this.node.style.left = `${Math.min(Math.max(x - width / 2, 0), Math.max(room - width, 0))}px`;
  }

  async #load(frameId) {
    try {
      const url = await this.#address(frameId);
      if (frameId !== this.frameId) return;
      this.picture.src = this.app.api.picture(url, 320);
      this.picture.classList.remove("old");
    } catch (error) {
      if (frameId === this.frameId) put(this.text, h("span", { class: "problem" }, error.message));
    }
  }

  async #address(frameId) {
    const held = this.known.get(frameId);
    if (held && Date.now() - held.at < EXPIRES_MS) return held.url;
    const { url } = await this.app.api.json(`/v1/frames/${frameId}`);
    this.known.set(frameId, { url, at: Date.now() });
    if (this.known.size > HELD) this.known.delete(this.known.keys().next().value);
    return url;
  }
}

/** The point at a moment in the finest layer that has it; null inside a gap. */
function pointAt(time, layers, reach) {
  const layer = layers.findLast(each => time >= each.after && time <= each.before) ?? layers[0];
  const point = layer && nearest(layer.points, time);
  return point && Math.abs(point.time - time) <= (reach ?? layer.gap_s + layer.bin_s) ? point : null;
}

/** The visit during which `time` is; of those, the one with the nearest peak. */
const visitAt = (time, visits) => visits.filter(visit => time >= visit.start && time <= visit.end)
  .reduce((best, each) => !best || Math.abs(each.peak - time) < Math.abs(best.peak - time) ? each : best, null);

/** The point of a visit's peak when `time` is that peak, else null. */
function peakOf(visit, time, layers) {
  const point = visit?.peak === time ? pointAt(time, layers, Infinity) : null;
  return point && (point.frame_id === visit.frame_id ? point : { ...point, frame_id: visit.frame_id, time, count: 1, max: null });
}

/** Local time, to the tenth of a second. */
const precise = (time, zone) => clock(time, zone, 1);
