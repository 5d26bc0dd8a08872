import { h } from "./dom.js";

/** @param {HTMLElement} root @param {import("./app.js").App} app */
export function mount(root, app) {
  root.append(h("h2", {}, "cameras"));
  return { unmount() {} };
}
