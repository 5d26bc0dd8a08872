// The dialog that shows one frame large, with its time, metadata, position, neighbours and a download.

import { clock, h, put, stamp, svg } from "./dom.js";

const STEP_S = 0.0005; // frames of a camera are at least a millisecond apart
const PATH_S = 60, PATH_POINTS = 400; // seconds and points of the robot's path drawn before and after the frame

/** @type {FrameDialog|null} */
let dialog = null;

/**
 * Open the dialog.
 * @param {import("./app.js").App} app
 * @param {{frame_id: number, [field: string]: any}} frame as the API returns it, or only its id
 */
export function openFrame(app, frame) {
  dialog ??= new FrameDialog();
  dialog.open(app, frame);
}

/** Close the dialog, because another token must not see the frame. */
export function closeFrame() {
  if (!dialog) return;
  dialog.wanted = null; // at once, as the event "close" comes later: nothing more is asked for the old frame
  dialog.node.close();
}

class FrameDialog {
  constructor() {
    this.title = h("h2", { id: "frame-title" });
    this.image = h("img", { class: "large", alt: "" });
    this.outline = h("span");
    this.before = h("button", { type: "button", onclick: () => this.step(-1) }, "← Before");
    this.after = h("button", { type: "button", onclick: () => this.step(1) }, "After →");
    this.save = h("a", { class: "button" }, "Download");
    this.facts = h("dl", { class: "facts-list" });
    this.map = h("figure", { class: "map" });
    this.problem = h("p", { class: "problem", role: "alert" });
    const close = h("button", { type: "button", class: "quiet", onclick: () => this.node.close() }, "Close");
    this.node = h("dialog", { class: "frame", "aria-labelledby": "frame-title" },
      h("div", { class: "head" }, this.title, close), this.problem, h("div", { class: "pictured" }, this.image, this.outline),
      h("div", { class: "head" }, h("div", { class: "row" }, this.before, this.after), this.save),
      h("div", { class: "two" }, this.facts, this.map));
    this.node.addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && !event.altKey && !event.ctrlKey && !event.metaKey) { event.preventDefault(); this.step(step); }
    });
    this.node.addEventListener("click", event => event.target === this.node && this.node.close()); // beside it
    this.node.addEventListener("close", () => { this.wanted = null; this.#blank(); });
    document.body.append(this.node);
  }

  async open(app, frame) {
    this.app = app;
    this.#blank();
    this.node.showModal();
    await this.show(frame.frame_id, frame);
  }

  /** @param {number} id @param {any} [known] `kind`, `score` and `boxes` from an answer */
  async show(id, known) {
    this.wanted = id;
    this.problem.hidden = true;
    try {
      const frame = await this.app.api.json(`/v1/frames/${id}`); // `known` may be hours old and its URL expired
      if (this.wanted !== id) return;
      this.shown = { ...frame, kind: known?.kind, score: known?.score, boxes: known?.boxes };
      this.#draw();
      await this.#lookAround(this.shown);
    } catch (error) {
      if (this.wanted !== id) return;
      this.#blank();
      this.problem.textContent = error.status === 404 ? "This frame was deleted: the memory keeps only the newest frames." : error.message;
      this.problem.hidden = false;
    }
  }

  step(direction) {
    const next = direction < 0 ? this.previous : this.next;
    if (next) this.show(next.frame_id);
  }

  /** Show no frame, so that the last one is not taken for the next. */
  #blank() {
    this.shown = this.previous = this.next = null;
    this.before.disabled = this.after.disabled = true;
    this.title.textContent = "Frame";
    this.image.hidden = this.save.hidden = true;
    this.image.removeAttribute("src");
    put(this.outline);
    put(this.facts);
    put(this.map);
  }

  #draw() {
    const { frame_id: id, camera, time, url, kind, score, boxes, metadata } = this.shown;
    const zone = this.app.zone(camera), at = clock(time, zone);
    this.title.textContent = `${camera} · ${clock(time, zone, 2)}`; // frames may share a second
    this.image.hidden = this.save.hidden = false;
    this.image.src = this.app.api.picture(url);
    this.image.alt = `What ${camera} saw at ${at}`;
    put(this.outline, outline(this.image, boxes));
    this.save.href = this.app.api.picture(url);
    this.save.download = `${camera}-${stamp(time, zone).replace(" ", "T").replaceAll(/[: ]/g, "-")}.jpg`;
    this.previous = this.next = null;
    this.before.disabled = this.after.disabled = true;
    const rows = [["Local time", `${stamp(time, zone, 3)} (${zone})`],
      kind && ["Keyframe", `${kind}, similarity ${score.toFixed(3)}`], ["Frame", String(id)],
      ...Object.entries(metadata ?? {}).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)])];
    put(this.facts, rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    put(this.map);
  }

  /** Find the frames before and after, and draw the robot's path. */
  async #lookAround(frame) {
    const list = query => this.app.api.json(`/v1/cameras/${frame.camera}/frames?${new URLSearchParams(query)}`).then(page => page.data);
    const [before, after] = await Promise.all([
      list({ before: (frame.time - STEP_S).toFixed(4), limit: "1", order: "desc" }), list({ after: (frame.time + STEP_S).toFixed(4), limit: "1" })]);
    if (this.wanted !== frame.frame_id) return;
    [this.previous, this.next] = [before[0], after[0]];
    this.before.disabled = !this.previous;
    this.after.disabled = !this.next;
    if (!position(frame)) return;
    const around = await list({ after: (frame.time - PATH_S).toFixed(3), before: (frame.time + PATH_S).toFixed(3), limit: String(PATH_POINTS) });
    if (this.wanted === frame.frame_id) put(this.map, drawWay(around.map(position).filter(Boolean), position(frame)), h("figcaption", { class: "hint" }, "Path from a minute before to a minute after, in metres"));
  }
}

/**
 * Outlines of what the question names in a picture. They scale with the picture.
 * @param {HTMLImageElement} image @param {[number, number, number, number][]} [boxes] left, top, right, bottom, as fractions of its size
 */
export function outline(image, boxes) {
  if (!boxes?.length) return null;
  const node = svg("svg", { class: "outline", "aria-hidden": "true" });
  const fit = () => {
    const { naturalWidth: width, naturalHeight: height } = image;
    if (!width) return;
    node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    node.replaceChildren(...boxes.map(([left, top, right, bottom]) =>
      svg("rect", { x: left * width, y: top * height, width: (right - left) * width, height: (bottom - top) * height })));
  };
  image.addEventListener("load", fit, { once: true });
  fit();
  return node;
}

/** The position in a frame's metadata {x, y, heading}: metres, and degrees counter-clockwise from x. */
function position({ metadata }) {
  const { x, y, heading } = metadata ?? {};
  return Number.isFinite(x) && Number.isFinite(y) ? { x, y, heading: Number.isFinite(heading) ? heading : null } : null;
}

/** A small map, y upwards: the path as a line, the position as an arrow, or as a dot when the heading is unknown. */
function drawWay(way, here) {
  const all = [...way, here], xs = all.map(p => p.x), ys = all.map(p => p.y);
  const size = Math.max(1, Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys));
  const left = (Math.min(...xs) + Math.max(...xs) - size) / 2, top = (Math.min(...ys) + Math.max(...ys) + size) / 2;
  const px = p => 12 + (p.x - left) / size * 136, py = p => 12 + (top - p.y) / size * 136;
  return svg("svg", { viewBox: "0 0 160 160", width: 160, height: 160, role: "img", "aria-label": `Position x ${here.x.toFixed(1)} m, y ${here.y.toFixed(1)} m` },
    svg("polyline", { class: "way", points: way.map(p => `${px(p).toFixed(1)},${py(p).toFixed(1)}`).join(" ") }),
    here.heading === null ? svg("circle", { class: "here", cx: px(here), cy: py(here), r: 5 })
      : svg("path", { class: "here", d: "M10 0L-7 6L-4 0L-7 -6Z", transform: `translate(${px(here)} ${py(here)}) rotate(${-here.heading})` }));
}
