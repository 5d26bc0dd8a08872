// Helpers that make elements and format times and numbers.

/**
 * Make an element: `h("button", { class: "primary", onclick: f }, "Ask")`. Strings become text, never markup.
 * @param {string} tag
 * @param {Record<string, any>} [props] `class`, `on...` handlers, and attributes; null and false are left out
 * @param {...(Node|string|number|null|false|undefined)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** As `h`, for SVG elements. @param {string} tag @param {Record<string, any>} [props] @param {...any} children */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter(each => each !== null && each !== undefined && each !== false));
  return node;
}

/** Replace the children of `node`. @param {Element} node @param {...any} children */
export function put(node, ...children) {
  node.replaceChildren(...children.flat().filter(each => each !== null && each !== undefined && each !== false));
}

const formats = new Map();

/** What clocks in a zone show: "2026-11-22T17:04:05". @param {number} time unix seconds @param {string} [zone] IANA */
export function wall(time, zone) {
  if (!formats.has(zone)) {
    const digits = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
    formats.set(zone, new Intl.DateTimeFormat("sv-SE", { timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit", ...digits }));
  }
  return formats.get(zone).format(time * 1000).replace(" ", "T");
}

const HALF_DAY = 43200;

/** Seconds by which clocks in a zone are ahead of UTC at a moment. @param {number} time @param {string} [zone] */
const offset = (time, zone) => Date.parse(`${wall(Math.floor(time), zone)}Z`) / 1000 - Math.floor(time);

/**
 * Unix seconds of local time `text`, the inverse of `wall`. When clocks are set back, an hour occurs twice:
 * the earlier time is returned, or the later one if `latest`. A time that clocks skip in spring is the moment of the change.
 * @param {string} text "2026-10-25T02:40:00" @param {string} [zone] @param {boolean} [latest]
 */
export function unix(text, zone, latest = false) {
  const shown = Date.parse(`${text}Z`) / 1000, guess = shown - offset(shown, zone);
  const [early, late] = [shown - offset(guess - HALF_DAY, zone), shown - offset(guess + HALF_DAY, zone)];
  const right = [early, late].filter(time => time + offset(time, zone) === shown);
  if (right.length) return latest ? Math.max(...right) : Math.min(...right);
  return change(Math.min(early, late), Math.max(early, late), zone);
}

/** The moment between `low` and `high` at which the zone's offset changes. @param {number} low @param {number} high @param {string} [zone] */
function change(low, high, zone) {
  const old = offset(low, zone);
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (offset(middle, zone) === old) low = middle;
    else high = middle;
  }
  return high;
}

const zoneNames = new Map();

/** The zone's short name ("CEST") when this local time occurs twice, else "". @param {number} time @param {string} [zone] */
export function ambiguity(time, zone) {
  const own = offset(time, zone);
  const others = [offset(time - HALF_DAY, zone), offset(time + HALF_DAY, zone)].filter(other => other !== own);
  if (!others.some(other => offset(time + own - other, zone) === other)) return "";
  if (!zoneNames.has(zone)) zoneNames.set(zone, new Intl.DateTimeFormat("en-GB", { timeZone: zone, timeZoneName: "short" }));
  const name = at => zoneNames.get(zone).formatToParts(at * 1000).find(part => part.type === "timeZoneName").value;
  if (others.every(other => name(time + own - other) !== name(time))) return name(time);
  const minutes = Math.abs(own) / 60, two = part => String(Math.floor(part)).padStart(2, "0");
  return `UTC${own < 0 ? "-" : "+"}${two(minutes / 60)}:${two(minutes % 60)}`;
}

/**
 * Local date and time, with the zone's name when it occurs twice: "2026-10-25 02:40:05 CEST".
 * @param {number} time unix seconds @param {string} [zone] @param {number} [digits] decimals of the second
 */
export function stamp(time, zone, digits = 0) {
  const part = digits ? `.${String(Math.floor(time * 10 ** digits % 10 ** digits)).padStart(digits, "0")}` : "";
  const name = ambiguity(time, zone);
  return `${wall(Math.floor(time), zone).replace("T", " ")}${part}${name && ` ${name}`}`;
}

/** As `stamp`, without today's date. @param {number} time @param {string} [zone] @param {number} [digits] */
export function clock(time, zone, digits = 0) {
  const told = stamp(time, zone, digits);
  return told.startsWith(wall(Date.now() / 1000, zone).split("T")[0]) ? told.slice(11) : told;
}

/**
 * A time range, its second date left out when it is the first: "14:02:10 to 14:02:31"; one time when both look alike.
 * @param {number} start @param {number} end @param {string} [zone] @param {string} [joint] the text between
 */
export function period(start, end, zone, joint = " to ") {
  const first = stamp(start, zone), last = stamp(end, zone);
  if (first === last) return clock(start, zone);
  return `${clock(start, zone)}${joint}${first.slice(0, 10) === last.slice(0, 10) ? last.slice(11) : clock(end, zone)}`;
}

/** "8 s", "12 min", "3.4 h", "2.1 days". @param {number} seconds */
export function span(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

/** "512 B", "3.4 MiB". @param {number} count */
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (count >= 1024 && place < units.length - 1) { count /= 1024; place += 1; }
  return `${count < 10 && place > 0 ? count.toFixed(1) : Math.round(count)} ${units[place]}`;
}

/** "12,345". @param {number} value */
export const number = value => value.toLocaleString("en");

/** Wait until the time is over or the signal aborts. @param {number} seconds @param {AbortSignal} [signal] @returns {Promise<void>} */
export function sleep(seconds, signal) {
  return new Promise(done => {
    if (signal?.aborted) return done();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end); // the same signal is used for thousands of waits
      done();
    };
    const timer = setTimeout(end, seconds * 1000);
    signal?.addEventListener("abort", end);
  });
}
