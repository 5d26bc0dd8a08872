// The view for health and settings: readiness, the model, the main metrics, and the memory of each camera with export
// and (for admins) erasing.

import { bytes, clock, h, number, put, sleep, span, unix, wall } from "./dom.js";

const POLL_S = 5;

/** @param {HTMLElement} root @param {import("./app.js").App} app */
export function mount(root, app) {
  const ready = h("div", { class: "panel stack" }), model = h("div", { class: "panel stack" });
  const metrics = metricsPanel(), memory = h("div", { class: "panel stack" });
  const problem = h("p", { class: "problem", role: "alert" });
  const dialog = eraseDialog(app);
  put(root, h("h2", {}, "Health and settings"), problem, h("div", { class: "two wide" }, ready, model), metrics.root, memory, dialog.root);
  const ended = new AbortController();
  let use = new Map(); // by camera: how full its memory is
  let known = false; // the model

  const look = async () => {
    try {
      const [text, held] = await Promise.all([app.api.send("/metrics").then(response => response.text()), app.api.json("/v1/memory")]);
      use = new Map(held.data.map(each => [each.camera, each]));
      if (!known) {
        showModel(model, (await app.api.json("/v1/models")).data[0]);
        known = true;
      }
      showMemory();
      metrics.show(parseMetrics(text));
      problem.hidden = true;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  };
  const follow = async () => {
    while (!ended.signal.aborted) {
      const visible = !root.hidden && !document.hidden;
      if (visible) await look();
      await sleep(visible ? POLL_S : 1, ended.signal);
    }
  };
  const showMemory = () => {
    if (root.hidden) return;
    const held = memory.contains(document.activeElement) ? document.activeElement.dataset.camera : null;
    put(memory, h("h3", {}, "Memory by camera"), memoryTable(app, use, dialog.open),
      h("ul", { class: "reach" }, [...use.values()].map(({ reach }) => h("li", {}, reach))));
    if (held) memory.querySelector(`[data-camera="${held}"]`)?.focus();
  };
  const ends = [app.on("cameras", showMemory), app.on("health", health => showReadiness(ready, health))];
  showReadiness(ready, app.health);
  showMemory();
  follow();
  return { unmount() { ended.abort(); ends.forEach(end => end()); dialog.root.remove(); }, show: showMemory };
}

const CHECKS = { model: "Model loaded", encoder: "Encoder works", disk: "Disk can be written", memory: "Memory", cameras: "Cameras", rules: "Rules",
  answerer: "Answering server", clock: "Clock", tasks: "Tasks", mqtt: "MQTT broker" };

/** @param {import("./state.js").Health} health */
function showReadiness(place, { known, failure, ready, degraded, checks }) {
  const [kind, words] = !known ? ["offline", "unknown"] : !ready ? ["bad", "not ready"] : [degraded ? "stalled" : "live", "ready"];
  const chips = [h("span", { class: `chip ${kind}` }, words), ready && degraded && h("span", { class: "chip stalled" }, "degraded")];
  put(place, h("div", { class: "head" }, h("h3", {}, "Readiness"), h("div", { class: "row" }, chips)),
    failure && h("p", { class: "problem", role: "alert" }, failure),
    h("dl", { class: "facts-list" }, Object.entries(checks).map(([name, state]) => h("div", {}, h("dt", {}, CHECKS[name] ?? name),
      h("dd", { class: ["ok", "off", "connected"].includes(state) ? null : "problem" }, state)))));
}

/** What the server that answers was found to do. @param {any} server */
function serverFacts(server) {
  const time = seconds => seconds === null ? "" : `, ${number(Math.round(seconds * 10) / 10)} s`;
  return { "Sees pictures": server.sees ? `yes${time(server.seconds_one)} for one` : "no",
    "Pictures a request": `${server.pictures}${time(server.seconds_all)}`, "Requests at once": server.together,
    "It can": ["json_schema", "tools", "thinks"].filter(name => server[name]).map(name => name.replace("_", " ")).join(", ") || "answer only",
    "What to change": server.warnings.join("; ") };
}

function showModel(place, { id, vilamp }) {
  const facts = { "Answered by": vilamp.answerer, "Patches per frame": vilamp.patches_per_frame, "Tokens per keyframe": vilamp.keyframe_tokens,
    "Embedding": `${vilamp.embedding_dim} numbers`, "Context": vilamp.context_tokens && `${number(vilamp.context_tokens)} tokens`,
    ...vilamp.server && serverFacts(vilamp.server),
    "Follow-ups": vilamp.conversations ? "reads the conversation" : "reads one question at a time" };
  put(place, h("h3", {}, `Model: ${id}`), h("p", {}, vilamp.card || "This checkpoint has no model card."),
    h("dl", { class: "facts-list" }, Object.entries(facts).filter(([, value]) => value).map(([name, value]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, typeof value === "number" ? number(value) : value)))));
}

// --- metrics ---

/** Samples of the Prometheus text form, by metric name. @param {string} text @returns {Map<string, {labels: Record<string, string>, value: number}[]>} */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const [, name, inside, value] = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (!name) continue;
    const labels = Object.fromEntries([...(inside ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text]));
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels, value: value === "+Inf" ? Infinity : Number(value) });
  }
  return found;
}

/** The bound below which a share of the observations lies: a histogram knows no better. @param {{labels: any, value: number}[]} buckets */
export function quantile(buckets, share) {
  const sorted = buckets.map(({ labels, value }) => [labels.le === "+Inf" ? Infinity : Number(labels.le), value]).sort((a, b) => a[0] - b[0]);
  const total = sorted.at(-1)?.[1] ?? 0;
  return total ? sorted.find(([, count]) => count >= share * total)?.[0] ?? null : null;
}

function metricsPanel() {
  const tiles = h("dl", { class: "tiles" }), body = h("tbody", {});
  const head = h("tr", {}, ["Stage", "Times", "Mean", "95 %"].map(name => h("th", { scope: "col" }, name)));
  const details = h("details", {}, h("summary", {}, "Time by stage"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Time by stage" }, h("table", {}, h("thead", {}, head), body)));
  return { root: h("div", { class: "panel stack" }, h("h3", {}, "Since the agent started"), tiles, details), show: all => showMetrics(all, tiles, body, details) };
}

function showMetrics(all, place, body, details) {
  const sum = (name, keep = () => true) => (all.get(name) ?? []).filter(({ labels }) => keep(labels)).reduce((total, each) => total + each.value, 0);
  const answered = sum("vilamp_questions_total", labels => labels.reason === "answered");
  const tiles = [["Frames encoded", sum("vilamp_frames_encoded_total")], ["Waiting for the encoder", sum("vilamp_backlog_frames")],
    ["Frames lost", sum("vilamp_frames_lost_total")], ["Questions answered", answered], ["Refused or stopped", sum("vilamp_questions_total") - answered],
    ["Publishers now", sum("vilamp_whip_sessions")]];
  const lag = quantile(all.get("vilamp_event_loop_lag_seconds_bucket") ?? [], .95);
  const stages = [...new Set((all.get("vilamp_stage_seconds_count") ?? []).map(({ labels }) => labels.stage))];
  const rows = stages.map(stage => {
    const of = suffix => (all.get(`vilamp_stage_seconds_${suffix}`) ?? []).filter(({ labels }) => labels.stage === stage);
    const count = of("count")[0].value;
    return h("tr", {}, h("td", {}, stage), h("td", { class: "num" }, number(count)), h("td", { class: "num" }, seconds(of("sum")[0].value / count)),
      h("td", { class: "num" }, `≤ ${seconds(quantile(of("bucket"), .95))}`));
  });
  put(place, tiles.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, number(value)))),
    lag !== null && h("div", {}, h("dt", {}, "Event loop delay, 95 %"), h("dd", {}, `≤ ${seconds(lag)}`)));
  put(body, rows);
  details.hidden = !rows.length;
}

const seconds = value => value === null ? "–" : !Number.isFinite(value) ? "more than the largest bucket" : value < 1 ? `${Number((value * 1000).toPrecision(3))} ms` : `${Number(value.toPrecision(3))} s`;

// --- memory ---

function memoryTable(app, use, erase) {
  if (!app.cameras.length) return h("p", { class: "soft" }, "No frames are stored yet.");
  const head = ["Camera", "Frames", "Encoded", "On disk", "Per day", "Full", "From", "To", ""].map(name => h("th", { scope: "col" }, name || h("span", { class: "unseen" }, "Actions")));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Memory by camera" }, h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, app.cameras.map(camera => h("tr", {},
    h("td", {}, camera.id), h("td", {}, number(camera.frames)), h("td", {}, number(camera.encoded)), h("td", {}, bytes(camera.bytes)), h("td", {}, perDay(use.get(camera.id))), h("td", {}, full(use.get(camera.id))),
    h("td", {}, camera.oldest === null ? "–" : clock(camera.oldest, camera.timezone)), h("td", {}, camera.newest === null ? "–" : clock(camera.newest, camera.timezone)),
    h("td", { class: "num" }, camera.frames > 0 && h("button", { type: "button", "data-camera": camera.id, onclick: () => erase(camera) }, app.may("admin") ? "Export or erase…" : "Export…")))))));
}

const perDay = held => held?.bytes_per_day ? bytes(held.bytes_per_day) : "–";
const full = held => held ? `${Math.round(100 * held.cap_use)} %` : "–"; // of the limit that is reached first

/** The dialog that exports or erases a time range of one camera. */
function eraseDialog(app) {
  const title = h("h2", { id: "erase-title" }), message = h("p", { role: "status" });
  const from = h("input", { id: "erase-from", type: "datetime-local", step: 1, required: true });
  const to = h("input", { id: "erase-to", type: "datetime-local", step: 1, required: true });
  const sure = h("input", { type: "checkbox", id: "erase-sure" });
  const exporting = h("button", { type: "button", onclick: () => act(download) }, "Export");
  const erasing = h("button", { class: "danger", type: "button", disabled: true, onclick: () => act(forget) }, "Erase");
  sure.addEventListener("change", () => { erasing.disabled = !sure.checked; });
  const root = h("dialog", { class: "narrow", "aria-labelledby": "erase-title" }, h("form", { method: "dialog" }, title,
    h("div", { class: "field" }, h("label", { for: "erase-from" }, "From"), from), h("div", { class: "field" }, h("label", { for: "erase-to" }, "To"), to),
    app.may("admin") && h("label", { class: "check" }, sure, "Erase these frames for good"), message,
    h("div", { class: "actions" }, exporting, app.may("admin") && erasing, h("button", { class: "quiet", value: "close" }, "Close"))));
  let camera;

  const query = () => new URLSearchParams({ after: String(unix(from.value, camera.timezone)), before: String(unix(to.value, camera.timezone, true) + .999) });
  const download = async () => {
    message.textContent = "Packing…";
    const response = await app.api.send(`/v1/cameras/${camera.id}/export?${query()}`);
    const name = /filename="?([\w.-]+)/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? `${camera.id}.zip`;
    const url = URL.createObjectURL(await response.blob());
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    return `Saved as ${name}.`;
  };
  const forget = async () => {
    const { erased } = await app.api.json(`/v1/cameras/${camera.id}/frames?${query()}`, { method: "DELETE" });
    sure.checked = false;
    erasing.disabled = true;
    app.emit("erased", camera.id);
    return `Erased: ${Object.entries(erased).map(([what, count]) => `${number(count)} ${what}`).join(", ")}.`;
  };
  const act = async action => {
    if (!from.reportValidity() || !to.reportValidity()) return;
    message.className = "soft";
    try {
      message.textContent = await action();
    } catch (error) {
      message.className = "problem";
      message.textContent = error.message;
    }
  };
  return {
    root,
    open(given) {
      camera = given;
      title.textContent = `Memory of ${camera.id} (${span(camera.newest - camera.oldest)})`;
      from.value = wall(Math.floor(camera.oldest), camera.timezone);
      to.value = wall(Math.ceil(camera.newest), camera.timezone);
      sure.checked = false;
      erasing.disabled = true;
      message.textContent = "";
      root.showModal();
    },
  };
}
