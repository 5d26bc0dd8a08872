// Geometry of the timeline: times to pixels and back, zooming, ticks in a camera's local time, visible bins.
// Pure functions. Times are unix seconds, pixels are CSS pixels.

import { ambiguity, unix, wall } from "./dom.js";

/** A time range. @typedef {{after: number, before: number}} Stretch */

const MIN_SPAN_S = 1;

/** @param {number} time @param {Stretch} view @param {number} width */
export const toX = (time, view, width) => (time - view.after) / (view.before - view.after) * width;

/** @param {number} x @param {Stretch} view @param {number} width */
export const toTime = (x, view, width) => view.after + x / width * (view.before - view.after);

/**
 * The view moved inside the limits, its length between a second and that of the limits.
 * @param {Stretch} view @param {Stretch} limits @returns {Stretch}
 */
export function kept(view, limits) {
  const span = Math.min(Math.max(view.before - view.after, MIN_SPAN_S), Math.max(limits.before - limits.after, MIN_SPAN_S));
  const middle = (view.after + view.before) / 2;
  const after = Math.max(limits.after, Math.min(middle - span / 2, limits.before - span));
  return { after, before: after + span };
}

/**
 * Zoom by `factor` (below 1: closer) and keep the moment `at` where it is on the screen.
 * @param {Stretch} view @param {number} factor @param {number} at @param {Stretch} limits
 */
export function zoomed(view, factor, at, limits) {
  const now = view.before - view.after;
  const span = Math.min(Math.max(now * factor, MIN_SPAN_S), Math.max(limits.before - limits.after, MIN_SPAN_S));
  const after = at - (at - view.after) / now * span;
  return kept({ after, before: after + span }, limits);
}

/** The view `seconds` later. @param {Stretch} view @param {number} seconds @param {Stretch} limits */
export const panned = (view, seconds, limits) =>
  kept({ after: view.after + seconds, before: view.before + seconds }, limits);

const MINUTE = 60, HOUR = 3600, DAY = 86400, MONDAY = 4 * DAY; // 5 January 1970
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 91 * DAY, 364 * DAY];

/**
 * Ticks at round local times, at least `room` pixels apart; a new day shows its date.
 *
 * 16:58:20 to 17:03:20 in UTC on 600 px: one each minute, "16:59", "17:00", ... at 40, 160, ...
 * Ticks follow local time: on the night of a clock change, 00:00 and 06:00 are 5 or 7 hours apart, and a time that occurs
 * twice has the zone's name: "02:00 CEST", "02:00 CET".
 * @param {Stretch} view @param {number} width @param {string} [zone] IANA @param {number} [room]
 * @returns {{time: number, x: number, label: string, major: boolean}[]}
 */
export function ticks(view, width, zone, room = 84) {
  const least = (view.before - view.after) / width * room;
  const step = STEPS.find(each => each >= least) ?? Math.ceil(least / (364 * DAY)) * 364 * DAY;
  const found = [];
  // Local time treated as UTC: its steps are round on the clock, and `unix` converts each one back.
  const begin = shown(view.after, zone), origin = step >= 7 * DAY ? MONDAY : 0;
  for (let n = Math.floor((begin - origin) / step) - 1; found.length <= width; n += 1) {
    const round = origin + n * step;
    const text = new Date(round * 1000).toISOString().slice(0, 19);
    const times = step < HOUR ? [view.after + (round - begin)] : [unix(text, zone), ...(step < DAY ? [unix(text, zone, true)] : [])];
    if (times[0] > view.before) break;
    for (const [place, time] of times.entries()) {
      const apart = toX(time, view, width) - (found.at(-1)?.x ?? -Infinity); // 0: in an hour that clocks skip
      if (time >= view.after && time <= view.before && apart > (place ? 0.8 * room : 0)) found.push(tick(time, step, view, width, zone));
    }
  }
  return found;
}

/** Local time as seconds. */
const shown = (time, zone) => Date.parse(`${wall(Math.floor(time), zone)}Z`) / 1000 + (time - Math.floor(time));

function tick(time, step, view, width, zone) {
  const exact = Math.round(time * 10) / 10;
  const [day, clock] = wall(Math.floor(exact), zone).split("T");
  const midnight = step < DAY && clock === "00:00:00" && exact === Math.floor(exact);
  const name = step < DAY ? ambiguity(exact, zone) : "";
  const label = step >= DAY || midnight ? date(day, step) : `${hours(clock, exact, step)}${name && ` ${name}`}`;
  return { time, x: toX(time, view, width), label, major: midnight || step >= DAY };
}

function hours(clock, time, step) {
  if (step >= MINUTE) return clock.slice(0, 5);
  return step >= 1 ? clock : `${clock}.${Math.round((time - Math.floor(time)) * 10)}`;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

function date(day, step) {
  const [year, month, number] = day.split("-").map(Number);
  const name = `${number} ${MONTHS[month - 1]}`;
  if (step >= 91 * DAY) return `${MONTHS[month - 1]} ${year}`;
  return step >= 7 * DAY ? name : `${WEEKDAYS[new Date(`${day}T00:00Z`).getUTCDay()]} ${name}`;
}

/**
 * Indices [first, end) of the visible entries, plus one on either side so that lines reach the edge.
 * @param {{t: number}[]} points rising `t` @param {Stretch} view
 */
export function inSight(points, view) {
  const first = place(points, view.after), end = place(points, view.before);
  return [Math.max(0, first - 1), Math.min(points.length, end + 1)];
}

/** How many entries have a `t` below `time`. @param {{t: number}[]} points @param {number} time */
export function place(points, time) {
  let low = 0, high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].t < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The entry whose frame is nearest to `time`. @template {{t: number, time: number}} P
 * @param {P[]} points @param {number} time @returns {P|null}
 */
export function nearest(points, time) {
  const at = place(points, time);
  const around = points.slice(Math.max(0, at - 2), at + 2);
  return around.reduce((best, each) => !best || Math.abs(each.time - time) < Math.abs(best.time - time) ? each : best, /** @type {P|null} */ (null));
}
