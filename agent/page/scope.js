// The choice of cameras and time range for questions. Reads and writes `app.state`, which other code may change too.

import { clock, h, put, unix, wall } from "./dom.js";

const CHOICES = [["all", "All stored frames"], ["600", "Last 10 minutes"], ["3600", "Last hour"], ["today", "Today"], ["since", "Since…"], ["range", "From the timeline"]];

/** The chosen time range in words. @param {import("./app.js").Window} window @param {string} [zone] */
export function inWords({ kind, seconds, after, before }, zone) {
  if (kind === "last") return CHOICES.find(each => each[0] === String(seconds))?.[1].toLowerCase() ?? `last ${seconds} s`;
  if (kind === "today") return "today";
  if (kind === "all") return "all stored frames";
  return `${after ? `from ${clock(after, zone)}` : ""}${before ? ` to ${clock(before, zone)}` : ""}`.trim() || "all stored frames";
}

/** @param {import("./app.js").App} app @returns {{root: HTMLElement, close: () => void}} */
export function scopePicker(app) {
  const boxes = h("fieldset", { class: "row cameras-choice" });
  const select = h("select", { id: "window" }, CHOICES.map(([value, label]) => h("option", { value }, label)));
  const since = h("input", { id: "since", type: "datetime-local", step: 1 });
  const range = h("p", { class: "hint" });
  const root = h("div", { class: "panel scope" }, boxes, h("div", { class: "row" },
    h("label", { for: "window" }, "Time"), select, h("label", { for: "since", class: "unseen" }, "Since, in the camera's time"), since, range));
  let listed = "";

  const show = () => {
    const { cameras, window } = app.state;
    const names = app.cameras.map(each => each.id).join();
    if (names !== listed) {
      listed = names;
      put(boxes, h("legend", {}, "Cameras"), app.cameras.map(({ id }) =>
        h("label", { class: "check" }, h("input", { type: "checkbox", value: id, onchange: chosen }), id)));
    }
    for (const box of boxes.querySelectorAll("input")) box.checked = !cameras.length || cameras.includes(box.value);
    const custom = window.kind === "range" ? (window.before ? "range" : "since") : null;
    const value = custom ?? (window.kind === "last" ? String(window.seconds) : window.kind);
    if (!(value === "all" && select.value === "since" && document.activeElement === since)) select.value = value;
    select.querySelector("[value=range]").disabled = custom !== "range"; // ranges are chosen on the timeline
    since.hidden = select.value !== "since";
    if (custom === "since" && document.activeElement !== since) since.value = wall(window.after, app.zone());
    range.textContent = custom === "range" ? inWords(window, app.zone()) : "";
  };
  const set = window => { app.state.window = window; app.emit("state"); };
  const chosen = () => {
    const named = [...boxes.querySelectorAll("input:checked")].map(box => box.value);
    app.state.cameras = named.length === app.cameras.length ? [] : named; // none means all
    app.emit("state");
  };
  select.addEventListener("change", () => {
    if (select.value === "since") set({ kind: "range", after: Math.floor(Date.now() / 1000) - 3600, before: null });
    else if (/\d/.test(select.value)) set({ kind: "last", seconds: Number(select.value) });
    else set({ kind: select.value });
  });
  since.addEventListener("change", () => since.value && set({ kind: "range", after: unix(since.value, app.zone()), before: null }));
  const ends = [app.on("state", show), app.on("cameras", show)];
  show();
  return { root, close: () => ends.forEach(end => end()) };
}

/**
 * What an answer searched, as chips. A chip's cross asks again without it; "Change" puts all of it into the choice above the questions.
 * @param {import("./app.js").App} app
 * @param {{cameras: string[], after: number|null, before: number|null, words: string[]}} scope
 * @param {{again: (changed: object) => void, change: () => void}} on `again` gets the fields of the request that change
 */
export function scopeChips(app, { cameras, after, before, words }, on) {
  const all = app.cameras.map(({ id }) => id), narrowed = cameras.length < all.length;
  const chip = (text, without, changed) => h("span", { class: "chip searched" }, text,
    h("button", { type: "button", class: "cross", "aria-label": `Ask again ${without}`, title: `Ask again ${without}`, onclick: () => on.again(changed) }, "×"));
  const others = name => (cameras.length > 1 ? cameras.filter(each => each !== name) : all);
  const time = inWords({ kind: "range", after, before }, app.zone(cameras[0]));
  const change = () => {
    app.state.cameras = narrowed ? cameras : [];
    app.state.window = after || before ? { kind: "range", after, before } : { kind: "all" };
    app.emit("state");
    on.change();
  };
  return [narrowed ? cameras.map(name => chip(name, `without ${name}`, { cameras: others(name) })) : h("span", {}, "all cameras"),
    after || before ? chip(time, "at any time", { after: 0, before: null }) : h("span", {}, time),
    words.length > 0 && h("span", {}, `understood from “${words.join("”, “")}”`),
    h("button", { type: "button", class: "quiet", onclick: change }, "Change")].flat();
}
