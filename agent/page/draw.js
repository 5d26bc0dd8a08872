// Paints a timeline on a canvas: relevance as an area, visits as bands, keyframes as marks by kind, gaps hatched, alerts as flags.
// Everything it draws is in `scene`. Colours are the page's custom properties.

import { inSight, ticks, toX } from "./ticks.js";

/**
 * The bins of one time range, as the timeline endpoint returns them.
 * @typedef {{after: number, before: number, bin_s: number, gap_s: number, gaps: [number, number][],
 *   background?: {level: number, noise: number, limit: number}|null,
 *   points: {t: number, count: number, max: number|null, mean: number|null, frame_id: number, time: number}[]}} Layer
 * @typedef {{low: number, high: number, level: number, noise: number, limit: number}} Scale scores at the ends of the axis,
 *   the usual score, one unit of noise, and how many units make a visit
 * @typedef {{frame_id: number, time: number, kind: string, score: number, url: string}} Keyframe
 * @typedef {{start: number, peak: number, end: number, is_clear: boolean, frame_id: number, [field: string]: any}} Visit
 * @typedef {{start: number, end: number|null, suppressed?: boolean, [field: string]: any}} Flag
 * @typedef {object} Scene
 * @property {Layer[]} layers the coarse one, then a finer one that is drawn instead where it has data
 * @property {Keyframe[]} keyframes
 * @property {Visit[]} visits
 * @property {Flag[]} flags
 * @property {number|null} oldest time of the oldest stored frame
 * @property {Scale|null} scale null: draw the number of frames instead
 * @property {string} [zone]
 * @property {import("./ticks.js").Stretch} view
 * @property {import("./ticks.js").Stretch|null} range the chosen range
 * @property {number|null} cursor
 */

export const AXIS = 24, FLAGS = 22, MARKS = 20; // heights of the lanes, px
const BELOW = 4; // units of noise drawn below the usual score
const LEAST = 3; // the axis reaches at least so many times as high as a visit must, so that noise alone looks low
const NAMES = ["surface", "raised", "line", "text", "soft", "accent", "bad", "warn", "tint", "relevant", "recent", "filling", "visit"];
const REST = "#888"; // used until the style sheet is loaded

/** The page's current colours, which differ between light and dark mode. @param {Element} element */
export function palette(element) {
  const style = getComputedStyle(element);
  return Object.fromEntries(NAMES.map(name => [name, style.getPropertyValue(`--${name}`).trim() || REST]));
}

/** The axis for the scores of a layer, in units of the camera's noise. @param {Layer} layer @returns {Scale|null} */
export function scaleOf({ background, points }) {
  if (!background || !points.length) return null;
  const { level, noise, limit } = background;
  const high = Math.max(...points.map(point => point.max), level + LEAST * limit * noise);
  return { low: level - BELOW * noise, high: high + 0.06 * (high - level), level, noise, limit };
}

/** A score in units of the camera's noise above the usual score. @param {number} score @param {{level: number, noise: number}} scale */
export const units = (score, { level, noise }) => (score - level) / noise;

/** @param {CanvasRenderingContext2D} ctx @param {number} width @param {number} height @param {Scene} scene @param {Record<string, string>} colours */
export function paint(ctx, width, height, scene, colours) {
  const top = FLAGS, bottom = height - AXIS - MARKS;
  const frame = { ctx, width, height, top, bottom, scene, colours, x: time => toX(time, scene.view, width) };
  ctx.clearRect(0, 0, width, height);
  paintUnknown(frame);
  eachLayer(frame, layer => paintGaps(frame, layer));
  paintTicks(frame);
  scene.visits.forEach(each => paintBand(frame, each));
  eachLayer(frame, layer => paintArea(frame, layer));
  paintScale(frame);
  paintRange(frame);
  scene.visits.forEach(each => paintPeak(frame, each));
  scene.keyframes.forEach(each => paintMark(frame, each));
  scene.flags.forEach(each => paintFlag(frame, each));
  paintCursor(frame);
}

/** Draw each layer, clipped to the part where no finer one is drawn. */
function eachLayer({ ctx, width, height, scene, x }, draw) {
  let from = 0, to = width;
  const cover = (left, right, layer) => {
    if (right <= left) return;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, 0, right - left, height);
    ctx.clip();
    draw(layer);
    ctx.restore();
  };
  const [coarse, fine] = scene.layers;
  if (!coarse) return;
  if (fine) {
    from = Math.min(Math.max(x(fine.after), 0), width);
    to = Math.min(Math.max(x(fine.before), 0), width);
    cover(from, to, fine);
    cover(0, from, coarse);
    cover(to, width, coarse);
  } else cover(0, width, coarse);
}

function paintUnknown({ ctx, top, height, scene, colours, x }) {
  const edge = scene.oldest === null ? Infinity : x(scene.oldest);
  if (edge <= 0) return;
  ctx.fillStyle = colours.raised;
  ctx.fillRect(0, top, Math.min(edge, ctx.canvas.width), height - AXIS - top);
}

function paintGaps({ ctx, width, top, height, colours, x }, layer) {
  ctx.fillStyle = hatching(ctx, colours.line);
  for (const [start, end] of layer.gaps) {
    const left = Math.max(x(start), 0), right = Math.min(x(end), width);
    if (right > left) ctx.fillRect(left, top, Math.max(right - left, 1), height - AXIS - top);
  }
}

const hatchings = new Map();

function hatching(ctx, colour) {
  if (!hatchings.has(colour)) {
    const tile = new OffscreenCanvas(8, 8), pen = tile.getContext("2d");
    pen.strokeStyle = colour;
    pen.lineWidth = 1.4;
    for (const shift of [-8, 0, 8]) { pen.moveTo(shift, 8); pen.lineTo(shift + 8, 0); }
    pen.stroke();
    hatchings.set(colour, ctx.createPattern(tile, "repeat"));
  }
  return hatchings.get(colour);
}

function paintTicks({ ctx, width, height, top, scene, colours }) {
  ctx.font = "11px system-ui, sans-serif";
  ctx.textBaseline = "middle";
  ctx.textAlign = "center";
  ctx.fillStyle = colours.line;
  ctx.fillRect(0, height - AXIS, width, 1);
  for (const { x, label, major } of ticks(scene.view, width, scene.zone)) {
    ctx.fillStyle = colours.line;
    ctx.fillRect(Math.round(x), major ? 0 : top, 1, height - AXIS - (major ? 0 : top) + 4);
    ctx.fillStyle = major ? colours.text : colours.soft;
    const half = ctx.measureText(label).width / 2;
    if (x > half && x < width - half) ctx.fillText(label, x, height - AXIS / 2 + 2);
  }
}

function paintArea({ ctx, width, top, bottom, scene, colours, x }, layer) {
  const [first, end] = inSight(layer.points, scene.view);
  const { scale } = scene;
  const most = scale ? 1 : Math.max(1, ...layer.points.map(point => point.count));
  const height = value => bottom - (bottom - top - 6) * Math.min(Math.max(value, 0), 1);
  const levels = scale
    ? [[0.35, point => height((point.max - scale.low) / (scale.high - scale.low))],
       [0.55, point => height((point.mean - scale.low) / (scale.high - scale.low))]]
    : [[0.35, point => height(point.count / most * 0.8)]];
  for (const [alpha, y] of levels) {
    ctx.globalAlpha = alpha;
    ctx.fillStyle = scale ? colours.accent : colours.soft;
    ctx.beginPath();
    for (let n = first; n < end;) n = trace(ctx, layer, n, end, x, y, bottom);
    ctx.fill();
  }
  ctx.globalAlpha = 1;
  const inView = layer.points.slice(first, end);
  if (inView.length && width / inView.length > 14) for (const point of inView) dot(ctx, x(point.time), levels[0][1](point));
}

/** A dot for a single frame, when there is room for them. */
function dot(ctx, x, y) {
  ctx.beginPath();
  ctx.arc(x, y, 2.6, 0, 2 * Math.PI);
  ctx.fill();
}

/** Trace a run of points without a gap as a closed outline. Returns the index of the next run. */
function trace(ctx, { points, bin_s, gap_s }, n, end, x, y, bottom) {
  const reach = gap_s + 1.5 * bin_s;
  let left = x(points[n].t);
  ctx.moveTo(left, bottom);
  ctx.lineTo(left, y(points[n]));
  let last = n;
  for (; n < end && points[n].t - points[last].t <= reach; n += 1) {
    ctx.lineTo(x(points[n].t + bin_s / 2), y(points[n]));
    last = n;
  }
  const right = Math.max(x(points[last].t + bin_s), left + 1.5); // keep a single frame visible
  ctx.lineTo(right, y(points[last]));
  ctx.lineTo(right, bottom);
  ctx.closePath();
  return n;
}

/** The axis: multiples of the camera's noise, and a dotted line at the height of a visit, which noise alone hardly reaches. */
function paintScale({ ctx, width, top, bottom, scene, colours }) {
  const { scale } = scene;
  if (!scale) return;
  const y = value => bottom - (bottom - top - 6) * (scale.level + value * scale.noise - scale.low) / (scale.high - scale.low);
  ctx.textAlign = "left";
  ctx.fillStyle = ctx.strokeStyle = colours.soft;
  ctx.lineWidth = 1;
  ctx.setLineDash([2, 4]);
  ctx.beginPath();
  ctx.moveTo(0, Math.round(y(scale.limit)) + 0.5);
  ctx.lineTo(width, Math.round(y(scale.limit)) + 0.5);
  ctx.stroke();
  ctx.setLineDash([]);
  const highest = units(scale.high, scale), step = roundStep(highest / 3);
  for (let value = step; value < highest; value += step) ctx.fillText(`${value.toLocaleString("en")} × noise`, 6, y(value));
  if (y(0) - y(scale.limit) > 16 && Math.abs(y(scale.limit) - y(step)) > 14) ctx.fillText("visit", 6, y(scale.limit) - 8);
}

/** The smallest of 1, 2, 5, 10, 20, ... that is at least `value`. */
function roundStep(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([1, 2, 5].find(each => each * power >= value) ?? 10);
}

function paintRange({ ctx, height, scene, colours, x }) {
  if (!scene.range) return;
  const left = x(scene.range.after), right = x(scene.range.before), floor = height - AXIS;
  ctx.fillStyle = colours.accent;
  ctx.globalAlpha = 0.14;
  ctx.fillRect(left, 0, right - left, floor);
  ctx.globalAlpha = 1;
  for (const edge of [left, right]) {
    ctx.fillRect(edge - 1, 0, 2, floor);
    ctx.beginPath();
    ctx.roundRect(edge - 4, floor / 2 - 14, 8, 28, 4);
    ctx.fill();
  }
}

/** A visit: a band from its start to its end behind the relevance; faint when it does not stand out. */
function paintBand({ ctx, width, top, bottom, colours, x }, visit) {
  const left = x(visit.start), right = Math.max(x(visit.end), left + 2); // keep a short one visible
  if (right < 0 || left > width) return;
  ctx.fillStyle = colours.visit;
  ctx.globalAlpha = visit.is_clear ? 0.26 : 0.09;
  ctx.fillRect(left, top, right - left, bottom - top);
  ctx.globalAlpha = visit.is_clear ? 1 : 0.5;
  ctx.fillRect(left, top, right - left, visit.is_clear ? 2 : 1);
  ctx.globalAlpha = 1;
}

/** The peak of a visit: a diamond above its band, hollow when it does not stand out. */
function paintPeak({ ctx, width, colours, x }, visit) {
  const at = x(visit.peak), middle = FLAGS - 6;
  if (at < -8 || at > width + 8) return;
  ctx.beginPath();
  ctx.moveTo(at, middle - 5);
  ctx.lineTo(at + 5, middle);
  ctx.lineTo(at, middle + 5);
  ctx.lineTo(at - 5, middle);
  ctx.closePath();
  ctx.fillStyle = visit.is_clear ? colours.visit : colours.surface;
  ctx.fill();
  ctx.strokeStyle = colours.visit;
  ctx.lineWidth = 1.2;
  ctx.stroke();
}

/** A keyframe: the shape of its kind in the lane below, and for a relevant one a stem up to its score. */
function paintMark({ ctx, width, top, bottom, scene, colours, x }, keyframe) {
  const at = x(keyframe.time), middle = bottom + MARKS / 2;
  if (at < -8 || at > width + 8) return;
  ctx.fillStyle = ctx.strokeStyle = colours[keyframe.kind] ?? colours.text;
  if (keyframe.kind === "relevant" && scene.scale) {
    const share = (keyframe.score - scene.scale.low) / (scene.scale.high - scene.scale.low);
    const y = bottom - (bottom - top - 6) * Math.min(Math.max(share, 0), 1);
    ctx.globalAlpha = 0.7;
    ctx.fillRect(at - 0.75, y, 1.5, middle - y);
    ctx.globalAlpha = 1;
  }
  shape(ctx, keyframe.kind, at, middle);
}

/** A disc (relevant), a triangle (recent) or a ring (filling), so that kinds differ without colour. */
export function shape(ctx, kind, x, y) {
  ctx.beginPath();
  if (kind === "recent") {
    ctx.moveTo(x, y - 5);
    ctx.lineTo(x + 5, y + 4);
    ctx.lineTo(x - 5, y + 4);
    ctx.closePath();
    ctx.fill();
  } else {
    ctx.arc(x, y, kind === "filling" ? 3.2 : 4.2, 0, 2 * Math.PI);
    ctx.lineWidth = 1.6;
    if (kind === "filling") ctx.stroke();
    else ctx.fill();
  }
}

function paintFlag({ ctx, width, height, scene, colours, x }, flag) {
  const at = x(flag.start), end = flag.end === null ? width : x(flag.end), floor = height - AXIS;
  if (end < -16 || at > width + 2) return;
  ctx.fillStyle = flag.suppressed ? colours.soft : colours.bad;
  ctx.globalAlpha = 0.1;
  ctx.fillRect(at, 0, Math.max(end - at, 0), floor);
  ctx.globalAlpha = flag.suppressed ? 0.5 : 1;
  ctx.fillRect(at - 0.75, 0, 1.5, floor);
  ctx.beginPath();
  ctx.moveTo(at, 1);
  ctx.lineTo(at + 15, 7);
  ctx.lineTo(at, 13);
  ctx.closePath();
  if (flag.suppressed) { ctx.strokeStyle = colours.soft; ctx.stroke(); } else ctx.fill();
  ctx.globalAlpha = 1;
}

function paintCursor({ ctx, height, scene, colours, x }) {
  if (scene.cursor === null) return;
  ctx.fillStyle = colours.text;
  ctx.fillRect(Math.round(x(scene.cursor)), 0, 1, height - AXIS);
}
