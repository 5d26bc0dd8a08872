// Turns the stream of GET /v1/alerts/stream into the event "alert" for the whole page.
//
// A hidden tab keeps no connection open, because browsers allow six to one server for all tabs together. It catches up
// when it becomes visible, as does a page that lost its connection.

import { sleep } from "./dom.js";

const AGAIN_S = 2;

/** @param {import("./app.js").App} app @returns {{close: () => void}} */
export function followAlerts(app) {
  const ended = new AbortController();
  follow(app, ended.signal);
  return { close: () => ended.abort() };
}

async function follow(app, ended) {
  let last = "";
  const tell = live => { app.alertsLive = live; app.emit("alerts-live"); };
  while (!ended.aborted) {
    await visible(ended);
    const looking = new AbortController(), signal = AbortSignal.any([ended, looking.signal]);
    document.addEventListener("visibilitychange", () => document.hidden && looking.abort(), { signal });
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      for await (const { id, data } of app.api.events("/v1/alerts/stream", { signal, headers })) {
        last = id;
        if (data) app.emit("alert", data);
        else tell(true); // the stream has begun, after the event with this id
      }
    } catch (error) {
      if (error.status === 401) return;
    }
    looking.abort();
    if (ended.aborted) return;
    tell(false);
    if (!document.hidden) await sleep(AGAIN_S, ended);
  }
}

/** Wait until the page is visible. @param {AbortSignal} signal */
async function visible(signal) {
  while (document.hidden && !signal.aborted) {
    await new Promise(next => {
      document.addEventListener("visibilitychange", next, { once: true, signal });
      signal.addEventListener("abort", next, { once: true });
    });
  }
}
