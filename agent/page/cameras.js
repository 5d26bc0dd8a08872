// The view with the newest frame and the state of every camera, and the panel that makes this device a camera.

import { base } from "./api.js";
import { bytes, clock, h, number, put, span } from "./dom.js";
import { openFrame } from "./frame.js";
import { publishPanel } from "./publish.js";
import { view } from "./viewer.js";

const WARM_S = 60; // with less video than this, answers say how little there is
const THUMB = 640;

/** @param {HTMLElement} root @param {import("./app.js").App} app */
export function mount(root, app) {
  const cards = new Map();
  const panel = publishPanel(app);
  const use = h("button", { type: "button", onclick: () => panel.open() }, "Use this device's camera");
  const wall = h("ul", { class: "wall" });
  const empty = h("div", { class: "empty" });
  put(root, h("div", { class: "head" }, h("h2", {}, "Cameras"), app.may("publish:") && use), panel.root, empty, wall);
  put(empty, app.may("ask")
    ? [h("strong", {}, "No camera yet"), h("p", {}, "Use this device's camera, publish from OBS or FFmpeg to ", h("code", {}, `${base()}/whip/<name>`),
      ", or list cameras in the configuration.")]
    : [h("strong", {}, "This token publishes only"), h("p", {}, "To see the cameras, enter another token.")]);

  const show = () => {
    if (root.hidden) return;
    empty.hidden = app.cameras.length > 0;
    for (const camera of app.cameras) {
      if (!cards.has(camera.id)) { cards.set(camera.id, card(camera.id, app)); wall.append(cards.get(camera.id).root); }
      cards.get(camera.id).show(camera);
    }
    for (const [id, each] of cards) if (!app.cameras.some(camera => camera.id === id)) { each.stop(); each.root.remove(); cards.delete(id); }
  };
  const off = app.on("cameras", show);
  const open = () => {
    const [what, name] = location.hash.slice(1).split("=");
    if (what === "publish" || !app.may("ask")) panel.open(name);
    show();
  };
  return { unmount: off, show: open };
}

/** The state of a camera in words, and the class for its colour. @param {any} camera */
function stateOf(camera) {
  const held = camera.oldest === null ? 0 : camera.newest - camera.oldest;
  if (camera.state === "live" && camera.problem) return { kind: "stalled", words: "live, with a problem" };
  if (camera.state === "live" && held < WARM_S) return { kind: "warming", words: `warming up: ${span(held)} of video so far` };
  return { kind: camera.state, words: camera.state };
}

/** Frames dropped or lost, in total. @param {any} camera */
const drops = camera => camera.lost + (camera.source?.dropped ?? 0);

/** Why the last publisher's session ended. @param {any} camera */
const lastEnd = camera => {
  const last = camera.state !== "live" && camera.past_sessions?.[0];
  return last ? `Last session: ${last.end.replaceAll("_", " ")}${last.client ? ` (${last.client})` : ""}` : "";
};

function card(id, app) {
  const image = h("img", { alt: "", loading: "lazy" });
  const open = h("button", { class: "picture", type: "button", "aria-label": `Open the newest frame of ${id}` }, image);
  const chip = h("span", { class: "chip" }), facts = h("p", { class: "facts" }), problem = h("p", { class: "problem" });
  const fluent = h("a", { target: "_blank", rel: "noopener noreferrer" }, "Fluent video");
  const ask = h("a", { href: "#ask", onclick: () => { app.state.cameras = [id]; app.emit("state"); } }, "Ask about it");
  const video = h("video", { playsinline: true, hidden: true, "aria-label": `Live video of ${id}` });
  video.muted = true; // else browsers do not let it start
  const live = h("button", { type: "button", class: "quiet" }, "Watch live");
  let watching = null, why = ""; // why: the reason why there is no live view
  live.addEventListener("click", async () => {
    if (watching) return watching.abort();
    const { signal } = watching = new AbortController();
    live.textContent = "Stop";
    why = "";
    video.addEventListener("playing", () => { video.hidden = false; open.hidden = true; }, { signal });
    await view(app.api, id, video, signal).catch(error => { why = error.message; });
    watching.abort();
    watching = null;
    live.textContent = "Watch live";
    video.hidden = true;
    open.hidden = false;
    app.emit("cameras");
  });
  let frame = null, missing = false; // missing: the picture could not be loaded
  open.addEventListener("click", () => frame && openFrame(app, frame));
  const seen = is => { missing = !is; image.style.visibility = is ? "" : "hidden"; }; // not `hidden`: a lazy image without a box is never loaded
  image.addEventListener("error", () => seen(false));
  image.addEventListener("load", () => seen(true));
  return {
    root: h("li", { class: "panel card" }, open, video, h("div", { class: "body" },
      h("div", { class: "head" }, h("h3", {}, id), chip), facts, problem, h("div", { class: "row links" }, ask, live, fluent))),
    stop: () => watching?.abort(),
    show(camera) {
      const { kind, words } = stateOf(camera);
      if (camera.latest && (missing || camera.latest.frame_id !== frame?.frame_id)) {
        missing = false;
        frame = camera.latest;
        image.src = app.api.picture(frame.url, THUMB);
        image.alt = `${id} at ${clock(frame.time, camera.timezone)}`;
      }
      if (!camera.latest) { // erased
        frame = null;
        image.removeAttribute("src");
      }
      open.disabled = !frame;
      chip.className = `chip ${kind}`;
      chip.textContent = words;
      const now = Date.now() / 1000, lost = drops(camera);
      put(facts, camera.frames === 0 ? "No frames yet" : [
        `${number(camera.frames)} frames`, ` · ${bytes(camera.bytes)}`, ` · oldest ${span(now - camera.oldest)} ago`,
        kind !== "live" && kind !== "warming" && ` · newest ${span(now - camera.newest)} ago`],
        ` · ${lost ? `${number(lost)} dropped` : "no drops"}`, camera.source?.width ? ` · ${camera.source.width}×${camera.source.height}` : "");
      problem.textContent = camera.problem ?? (why || (camera.state === "live" ? "" : camera.source?.detail ?? lastEnd(camera)));
      live.hidden = camera.state !== "live" && !watching;
      problem.hidden = !problem.textContent;
      fluent.hidden = !camera.recorder_url;
      if (camera.recorder_url) fluent.href = camera.recorder_url;
    },
  };
}
