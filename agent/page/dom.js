// Small helpers: making elements, and times and numbers as people read them. Knows nothing of the agent.

/**
 * An element: `h("button", { class: "primary", onclick: f }, "Ask")`. Text is always text, never markup.
 * @param {string} tag
 * @param {Record<string, any>} [props] `class`, `on...` handlers, and attributes; null and false leave one out
 * @param {...(Node|string|number|null|false|undefined)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** As `h`, for SVG. @param {string} tag @param {Record<string, any>} [props] @param {...any} children */
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

/** Put `children` in place of what `node` holds. @param {Element} node @param {...any} children */
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

/** Unix seconds at which clocks in a zone show `text`: the inverse of `wall`. @param {string} text @param {string} [zone] */
export function unix(text, zone) {
  const shown = Date.parse(`${text}Z`) / 1000;
  let time = shown;
  for (let round = 0; round < 2; round += 1) time += shown - Date.parse(`${wall(time, zone)}Z`) / 1000; // twice: near a clock change
  return time;
}

/** Clock time in a zone, with the date unless it is today there. @param {number} time unix seconds @param {string} [zone] */
export function clock(time, zone) {
  const [day, hours] = wall(time, zone).split("T");
  return day === wall(Date.now() / 1000, zone).split("T")[0] ? hours : `${day} ${hours}`;
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

/** Wait, or until the signal aborts. @param {number} seconds @param {AbortSignal} [signal] @returns {Promise<void>} */
export function sleep(seconds, signal) {
  return new Promise(done => {
    if (signal?.aborted) return done();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end); // a signal may outlive thousands of waits
      done();
    };
    const timer = setTimeout(end, seconds * 1000);
    signal?.addEventListener("abort", end);
  });
}
