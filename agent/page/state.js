// The agent's health on every view: a badge in the header and below it each problem in words. Green means that the agent
// reports no problem; an agent that does not answer is not green.

import { address, Away } from "./api.js";
import { h, put } from "./dom.js";

const POLL_MS = 4000;
const FINE = ["ok", "off", "connected"];

/** `failure`: why the health is unknown. @typedef {{known: boolean, failure: string, ready: boolean, degraded: boolean, checks: Record<string, string>, problems: {part: string, problem: string, stops?: boolean}[]}} Health */

/** @type {Health} */
const UNKNOWN = { known: false, failure: "", ready: false, degraded: false, checks: {}, problems: [] };

export class State {
  /** @param {import("./app.js").App} app @param {HTMLElement} badge @param {HTMLDetailsElement} list */
  constructor(app, badge, list) {
    this.app = app;
    this.badge = badge;
    this.list = list;
    this.turn = 0;
    this.asked = 0;
    this.clear();
  }

  /** Forget the health, after a change of token or when the agent does not answer. */
  clear() {
    this.turn += 1;
    this.asked = 0;
    this.#show(UNKNOWN);
  }

  /** Fetch the health, unless that was done in the last POLL_MS. */
  async renew() {
    if (Date.now() - this.asked < POLL_MS) return;
    this.asked = Date.now();
    const turn = this.turn += 1;
    const health = await ask(this.app.api.headers()).catch(() => ({ ...UNKNOWN, failure: new Away().message }));
    if (turn === this.turn) this.#show(health);
  }

  /** @param {Health} health */
  #show(health) {
    this.app.health = health;
    const count = health.problems.length, several = `${count} ${count === 1 ? "problem" : "problems"}`;
    const [kind, words] = !health.known ? ["offline", "state unknown"] : !health.ready ? ["bad", "not ready"]
      : health.degraded ? ["stalled", several] : ["live", "all well"];
    this.badge.className = `chip ${kind}`;
    if (this.badge.textContent !== words) this.badge.textContent = words;
    this.list.hidden = !count;
    const told = JSON.stringify(health.problems);
    if (count && told !== this.told) { // rebuild the list only when it changes, so that it stays open or closed
      put(this.list, h("summary", {}, `${health.ready ? "Not everything works" : "The agent is not ready"}: ${several}`),
        h("ul", {}, health.problems.map(({ part, problem, stops }) =>
          h("li", {}, h("strong", {}, part), `: ${problem}`, stops && " (until this is solved, no frames are stored and no questions answered)"))));
    }
    this.told = told;
    this.list.classList.toggle("bad", health.known && !health.ready);
    this.app.emit("health", health);
  }
}

/** GET /readyz; a response with status 503 has a body too. @param {Record<string, string>} headers @returns {Promise<Health>} */
async function ask(headers) {
  const response = await fetch(address("/readyz"), { headers, cache: "no-store", credentials: "omit" });
  const { ready, degraded, checks, problems } = await response.json();
  if (typeof ready !== "boolean" || typeof checks !== "object") throw new Away(); // an error page of a proxy
  const listed = problems ?? Object.entries(checks).filter(([, state]) => !FINE.includes(state)).map(([part, problem]) => ({ part, problem }));
  return { known: true, failure: "", ready, degraded: Boolean(degraded) || listed.length > 0, checks, problems: listed };
}
