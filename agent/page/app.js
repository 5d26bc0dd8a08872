// The shell of the page: tabs, the token dialog, the list of cameras, and the state that the views share.
//
// A view is a module with `mount(root, app)`, which returns { unmount(), show?(), hide?() }. It is mounted on its first
// visit and then only hidden, so that a conversation or a half-written rule is not lost. A new token mounts every view
// again.

import { followAlerts } from "./alertstream.js";
import { Api, Away } from "./api.js";
import { h, put, sleep, unix, wall } from "./dom.js";
import { closeFrame } from "./frame.js";
import { Notice } from "./notice.js";
import { State } from "./state.js";

/**
 * The state and functions that the views share.
 * @typedef {object} App
 * @property {Api} api
 * @property {{id: string, [field: string]: any}[]} cameras as GET /v1/cameras lists them, renewed every second or so
 * @property {{name: string|null, scopes: string[]}} who the token's name and scopes
 * @property {{cameras: string[], window: Window, question: string}} state `cameras` empty: all of them
 * @property {(scope: string) => boolean} may
 * @property {() => {after: number|null, before: number|null}} window the chosen time range, in unix seconds
 * @property {(camera?: string) => string|undefined} zone IANA zone of a camera (of the first chosen one)
 * @property {(hash: string) => void} navigate
 * @property {(event: string, fn: (detail: any) => void) => () => void} on returns a function that unsubscribes; events:
 *   "cameras" (list renewed), "state" (`state` changed; emitted by the code that changes it), "alert" (an event of
 *   GET /v1/alerts/stream), "alerts-live" (`alertsLive` changed), "erased" (this page erased frames of the named camera)
 * @property {import("./state.js").Health} health the result of GET /readyz, renewed every few seconds (event "health")
 * @property {boolean} alertsLive whether the stream of alerts is connected
 * @property {(event: string, detail?: any) => void} emit
 */

/** "last": the newest `seconds`; "today"; "range": after..before, either null; "all". @typedef {{kind: "last"|"today"|"range"|"all", seconds?: number, after?: number|null, before?: number|null}} Window */

const VIEWS = [
  { id: "cameras", label: "Cameras", scope: null, load: () => import("./cameras.js") },
  { id: "ask", label: "Ask", scope: "ask", load: () => import("./ask.js") },
  { id: "timeline", label: "Timeline", scope: "ask", load: () => import("./timeline.js") },
  { id: "rules", label: "Rules", scope: "ask", load: () => import("./rules.js") },
  { id: "health", label: "Health", scope: "ask", load: () => import("./health.js") },
];
const POLL_S = { cameras: 1, other: 5, away: 2 };

const $ = id => /** @type {any} */ (document.getElementById(id));
const events = new EventTarget();
const mounted = new Map(); // id -> { root, view }
let current = "", epoch = 0, starts = 0, alerts = { close() {} };

const api = new Api(refused, reached => {
  if (!reached && !trouble.away) state.clear();
  trouble.away = !reached;
  showTrouble();
});

/** @type {App} */
const app = {
  api,
  cameras: [],
  who: { name: null, scopes: [] },
  state: { cameras: [], window: { kind: "all" }, question: "" },
  health: { known: false, failure: "", ready: false, degraded: false, checks: {}, problems: [] },
  alertsLive: false,
  may: scope => app.who.scopes.some(each => each === scope || each === "admin"
    || (scope.startsWith("publish:") && each === "publish:*") || (scope === "publish:" && each.startsWith(scope))),
  window: () => windowNow(app.state.window),
  zone: camera => (app.cameras.find(each => each.id === (camera ?? app.state.cameras[0])) ?? app.cameras[0])?.timezone,
  navigate: hash => { location.hash = hash; },
  on(event, fn) {
    const listener = given => fn(given.detail);
    events.addEventListener(event, listener);
    return () => events.removeEventListener(event, listener);
  },
  emit: (event, detail) => { events.dispatchEvent(new CustomEvent(event, { detail })); },
};

function windowNow({ kind, seconds = 0, after = null, before = null }) {
  const now = Date.now() / 1000;
  if (kind === "last") return { after: now - seconds, before: null };
  if (kind === "today") return { after: unix(`${wall(now, app.zone()).slice(0, 10)}T00:00:00`, app.zone()), before: null };
  return kind === "range" ? { after, before } : { after: null, before: null };
}

// --- tabs ---

const allowed = () => VIEWS.filter(view => view.scope === null || app.may(view.scope));

/** Show the view that the URL's hash names ("#publish=gate" opens the cameras' view). */
async function route() {
  if (api.takeToken()) return start();
  const views = allowed();
  if (!views.length || !app.who.scopes.length) return;
  const wanted = location.hash.slice(1).split(/[/=&]/)[0];
  const view = views.find(each => each.id === wanted) ?? views[0];
  showTabs(views, view);
  $("skip").href = location.hash || `#${view.id}`;
  document.title = `${view.label} · ViLaMP Live`;
  if (current === view.id) return mounted.get(view.id)?.view?.show?.();
  mounted.get(current)?.view?.hide?.();
  current = view.id;
  for (const [id, each] of mounted) each.root.hidden = id !== view.id;
  if (mounted.has(view.id)) mounted.get(view.id).view?.show?.();
  else await mountView(view);
}

/** Keep the links where possible, so that the focused one keeps the focus. */
function showTabs(views, view) {
  const links = () => [...$("tabs").children];
  if (links().map(link => link.hash).join("") !== views.map(each => `#${each.id}`).join("")) {
    put($("tabs"), views.map(each => h("a", { href: `#${each.id}` }, each.label)));
  }
  for (const link of links()) {
    if (link.hash === `#${view.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

$("skip").addEventListener("click", event => {
  event.preventDefault();
  $("main").focus();
});

async function mountView(view) {
  const root = h("section", { class: `view ${view.id}`, "aria-label": view.label });
  const slot = { root, view: null };
  mounted.set(view.id, slot);
  $("main").append(root);
  const began = epoch;
  try {
    const module = await view.load();
    if (began === epoch) slot.view = module.mount(root, app);
    if (current === view.id) slot.view?.show?.();
  } catch (error) {
    mounted.delete(view.id);
    put(root, h("p", { class: "problem", role: "alert" }, `This view could not be loaded (${error.message}). Reload the page.`));
  }
}

// --- token ---

/** A request was refused (401): ask for a token, or say what is wrong with the one just entered. */
function refused({ message }) {
  if (!$("token-dialog").open) return askForToken(message);
  if (!api.token) return; // the open dialog asks for one already
  api.token = "";
  $("token-problem").textContent = `This token does not work: ${message}.`;
  $("token-problem").hidden = false;
}

/** @param {string} reason the server's message */
function askForToken(reason) {
  $("token-reason").textContent = api.token ? `This needs another token: ${reason}.` : "Enter a token to see the cameras.";
  api.token = "";
  $("token").value = "";
  $("token-problem").hidden = true;
  $("token-dialog").showModal();
}

$("token-dialog").addEventListener("cancel", event => event.preventDefault()); // the page does not work without a token
$("token-form").addEventListener("submit", event => {
  event.preventDefault();
  api.token = $("token").value.trim();
  start();
});

$("who").addEventListener("click", () => {
  api.token = "";
  app.who = { name: null, scopes: [] };
  clear();
  askForToken("");
});

function clear() {
  epoch += 1;
  alerts.close();
  notice.clear();
  closeFrame();
  state.clear();
  $("state").hidden = true;
  app.cameras = [];
  app.state.cameras = [];
  for (const { root, view } of mounted.values()) { view?.unmount(); root.remove(); }
  mounted.clear();
  current = "";
}

/** Ask the agent what the token allows, then show the view. Retries until the agent answers. */
async function start() {
  const mine = starts += 1;
  app.who = { name: null, scopes: [] }; // allow nothing until the agent has said what the token covers
  clear();
  while (mine === starts) {
    try {
      app.who = await api.json("/v1/whoami");
      if (app.may("ask")) await renew(); // views need the cameras and their time zones
      break;
    } catch (error) {
      if (error.status === 401) return;
      complain(error);
      await sleep(POLL_S.away);
    }
  }
  if (mine !== starts) return; // another token was entered in the meantime
  if ($("token-dialog").open) $("token-dialog").close();
  $("who").hidden = app.who.name === null;
  $("who").textContent = `${app.who.name ?? ""} · change`;
  $("who").setAttribute("aria-label", `Token ${app.who.name}: use another`);
  if (app.may("ask")) alerts = followAlerts(app);
  $("state").hidden = !app.may("ask");
  if (app.may("ask")) state.renew();
  await route();
}

// --- the server, and the list of cameras ---

const trouble = { away: false, refusal: "" };

function showTrouble() {
  const words = trouble.away ? "The agent does not answer. Trying again…" : trouble.refusal;
  $("banner").hidden = !words;
  if ($("banner").textContent !== words) $("banner").textContent = words;
}

/** Show an error that another token would not solve. */
function complain(error) {
  trouble.refusal = error instanceof Away || error.status === 401 ? "" : `The cameras cannot be listed: ${error.message} Trying again…`;
  showTrouble();
}

async function renew() {
  app.cameras = (await api.json("/v1/cameras")).data;
  trouble.refusal = "";
  showTrouble();
  app.emit("cameras");
}

async function follow() {
  for (;;) {
    let wait = current === "cameras" ? POLL_S.cameras : POLL_S.other;
    if (app.may("ask") && !document.hidden && !$("token-dialog").open) {
      try {
        await Promise.all([renew(), state.renew()]);
      } catch (error) {
        wait = POLL_S.away;
        complain(error);
      }
    }
    const woken = new AbortController();
    const wake = () => woken.abort();
    addEventListener("hashchange", wake, { once: true });
    document.addEventListener("visibilitychange", wake, { once: true });
    await sleep(wait, woken.signal);
    removeEventListener("hashchange", wake);
    document.removeEventListener("visibilitychange", wake);
  }
}

const state = new State(app, $("state"), $("problems"));
const notice = new Notice(app, $("notice"));
addEventListener("hashchange", route);
api.takeToken();
await start();
follow();
