// The panel "Use this device's camera": choose a camera and a name, preview and publish it, or make a link with which
// another device does the same. publisher.js publishes, and goes on while other views are shown.

import { base } from "./api.js";
import { h, put } from "./dom.js";
import { NoCamera, openCamera, Publisher } from "./publisher.js";

const WORDS = { idle: "", connecting: "Connecting…", live: "Live: the agent receives this picture.", waiting: "", failed: "" };
const NAME = "[a-z0-9_\\-]{1,64}";

/** @type {Publisher|null} one for the whole page */
let publisher = null;

/**
 * Make the panel, closed. `open(name)` opens it.
 * @param {import("./app.js").App} app
 * @returns {{root: HTMLElement, open: (name?: string) => void, close: () => void}}
 */
export function publishPanel(app) {
  const name = h("input", { id: "publish-name", required: true, pattern: NAME, maxlength: 64, spellcheck: "false",
    autocapitalize: "none", autocomplete: "off", size: 18, title: "a to z, 0 to 9, _ and -" });
  const device = h("select", { id: "publish-device", disabled: true }, h("option", { value: "" }, "Camera of this device"));
  const preview = h("video", { class: "preview", autoplay: true, muted: true, playsinline: true, "aria-label": "Picture of this device's camera" });
  const status = h("p", { role: "status" });
  const start = h("button", { class: "primary", type: "submit" }, "Start publishing");
  const stop = h("button", { type: "button", onclick: () => publisher.stop() }, "Stop");
  const link = h("div", { class: "stack" });
  const form = h("form", { class: "stack" },
    h("div", { class: "row" },
      h("div", { class: "field" }, h("label", { for: "publish-name" }, "Name of the camera"), name),
      h("div", { class: "field" }, h("label", { for: "publish-device" }, "Device"), device)),
    status, h("div", { class: "actions" }, start, stop));
  const close = h("button", { class: "quiet", type: "button", onclick: () => { root.hidden = true; app.navigate("cameras"); } }, "Close");
  const root = h("section", { class: "panel publish", hidden: true, "aria-labelledby": "publish-title" },
    h("div", { class: "head" }, h("h2", { id: "publish-title", tabindex: "-1" }, "Use this device's camera"), close),
    h("div", { class: "two" }, preview, h("div", { class: "stack" }, form, app.may("admin") && linkMaker(app, name, link), link)));

  const own = app.who.scopes.map(scope => scope.replace("publish:", "")).find(scope => app.who.scopes.includes(`publish:${scope}`) && scope !== "*");
  name.value = own ?? "phone";
  name.readOnly = Boolean(own) && app.who.scopes.length === 1;
  preview.muted = true;

  const allow = () => { device.disabled = publisher.running || device.options.length < 2; };
  const show = () => {
    const { state, detail, camera, running } = publisher;
    status.textContent = detail || WORDS[state];
    status.className = state === "failed" ? "problem" : state === "live" ? "good" : "soft";
    start.hidden = running;
    stop.hidden = !running;
    name.disabled = running;
    allow();
    preview.srcObject = running ? publisher.stream : null;
    preview.hidden = !running;
    document.getElementById("publishing").textContent = running ? `● ${camera}${state === "live" ? "" : " (waiting)"}` : "";
  };
  publisher ??= new Publisher(app.api, show);
  publisher.onChange = show;

  form.addEventListener("submit", async event => {
    event.preventDefault();
    start.disabled = true;
    try {
      const stream = await openCamera(device.value);
      await listDevices(device, stream.getVideoTracks()[0].getSettings().deviceId);
      publisher.start(name.value, stream);
    } catch (error) {
      if (!(error instanceof NoCamera)) throw error;
      status.textContent = error.message;
      status.className = "problem";
    } finally {
      start.disabled = false;
    }
  });
  show();
  return {
    root,
    open(given) {
      if (given && !publisher.running && !name.readOnly) name.value = given;
      root.hidden = false;
      root.querySelector("h2").focus();
      if (!publisher.running) listDevices(device).then(allow); // not `show`, which would remove the message of a failure
    },
    close() { root.hidden = true; },
  };
}

/** List the device's cameras. Browsers reveal their names once the page may use one. @param {HTMLSelectElement} select @param {string} [used] its id */
async function listDevices(select, used) {
  const devices = await navigator.mediaDevices?.enumerateDevices() ?? [];
  const cameras = devices.filter(each => each.kind === "videoinput" && each.label);
  if (cameras.length) put(select, cameras.map(each => h("option", { value: each.deviceId, selected: each.deviceId === used }, each.label)));
}

function linkMaker(app, name, place) {
  const make = async () => {
    if (!name.reportValidity()) return;
    try {
      const made = await app.api.json(`/v1/cameras/${name.value}/publish-token`, { method: "POST" });
      const url = `${base()}/#${new URLSearchParams({ publish: name.value, token: made.token })}`;
      const field = h("input", { id: "publish-link", readonly: true, value: url, onfocus: event => event.target.select() });
      const copy = h("button", { type: "button", onclick: async () => {
        field.select();
        await navigator.clipboard?.writeText(url).then(() => { copy.textContent = "Copied"; }).catch(() => {});
      } }, "Copy");
      put(place, h("label", { for: "publish-link" }, `Link for “${name.value}”`), h("div", { class: "row link" }, field, copy),
        h("p", { class: "hint" }, "Valid for a week. Anyone with the link can publish as this camera, but cannot see anything. ", reachable()));
    } catch (error) {
      put(place, h("p", { class: "problem", role: "alert" }, error.message));
    }
  };
  return h("div", { class: "stack" },
    h("p", { class: "hint" }, "Or use another device as a camera: a phone needs only a link."),
    h("div", { class: "actions" }, h("button", { type: "button", onclick: make }, "Make a link for another device")));
}

/** Why another device cannot use this address, or "". */
function reachable() {
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  if (local) return "This address works on this machine only: start the agent with --host 0.0.0.0 --tls self-signed and open the page under the machine's own address.";
  return location.protocol === "https:" ? "" : "Phones allow a page to use the camera only over HTTPS: start the agent with --tls self-signed.";
}
