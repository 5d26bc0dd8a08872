// Publishes this device's camera over WHIP (RFC 9725) until it is stopped. After a restart of the server or a loss of the
// network it connects again by itself, with growing pauses. It uses no page elements.

import { address, ApiError, Away } from "./api.js";
import { sleep } from "./dom.js";

const FIRST_WAIT_S = 1, LONGEST_WAIT_S = 15, CONNECT_TIMEOUT_S = 20;

/** The camera cannot be used; `message` says what to do. */
export class NoCamera extends Error {}

const CAMERA_ERRORS = {
  NotAllowedError: "This page may not use the camera. Allow it in the browser's address bar, then try again.",
  NotFoundError: "There is no camera on this device. Connect one, then try again.",
  NotReadableError: "Another program uses the camera. Close it, then try again.",
};

/**
 * Open the device's camera, at 720p and 15 frames a second if possible. Throws NoCamera.
 * @param {string} [deviceId] "": the rear camera, or any
 * @returns {Promise<MediaStream>}
 */
export async function openCamera(deviceId = "") {
  if (!navigator.mediaDevices) {
    throw new NoCamera("Browsers allow the camera only to pages over HTTPS or on localhost. "
      + "Start the agent with `--tls self-signed` and open its https:// address.");
  }
  const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: { ideal: "environment" } };
  try {
    return await navigator.mediaDevices.getUserMedia(
      { video: { ...which, width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 15, max: 30 } } });
  } catch (error) {
    throw new NoCamera(CAMERA_ERRORS[error.name] ?? `The camera cannot be opened (${error.name}). Choose another one.`);
  }
}

export class Publisher {
  /** @param {import("./api.js").Api} api @param {() => void} onChange called whenever `state` or `detail` changes */
  constructor(api, onChange) {
    this.api = api;
    this.onChange = onChange;
    /** @type {"idle"|"connecting"|"live"|"waiting"|"failed"} */
    this.state = "idle";
    this.detail = "";
    this.camera = "";
    this.session = "";
    this.stopping = new AbortController();
    addEventListener("pagehide", () => this.#leave(true));
    document.addEventListener("visibilitychange", () => this.#stayAwake());
  }

  get running() { return this.state !== "idle" && this.state !== "failed"; }

  /** Publish until `stop`. @param {string} camera @param {MediaStream} stream */
  async start(camera, stream) {
    this.stop();
    const { signal } = this.stopping = new AbortController();
    this.camera = camera;
    this.stream = stream;
    this.#stayAwake();
    let wait = FIRST_WAIT_S;
    while (!signal.aborted) {
      let back = null; // resolves when the agent answers again
      try {
        this.#say("connecting");
        if (await this.#once(signal)) wait = FIRST_WAIT_S;
        if (signal.aborted) return;
        this.#say("waiting", `The connection was lost; again in ${wait} s.`);
      } catch (error) {
        if (signal.aborted) return;
        const hopeless = error instanceof ApiError && error.status < 500 && error.status !== 429;
        if (hopeless) return this.#end("failed", error.message);
        wait = Math.max(wait, error.retryAfter ?? 0);
        if (error instanceof Away) back = this.api.answered();
        this.#say("waiting", `${error instanceof Away ? "The agent does not answer" : error.message}; again in ${wait} s.`);
      }
      await (back ? Promise.race([sleep(wait, signal), back]) : sleep(wait, signal));
      wait = Math.min(2 * wait, LONGEST_WAIT_S);
    }
  }

  stop() {
    if (this.running) this.#end("idle", "");
  }

  #end(state, detail) {
    this.stopping.abort();
    this.#leave(false);
    this.stream?.getTracks().forEach(track => track.stop());
    this.wakeLock?.release().catch(() => {});
    this.#say(state, detail);
  }

  #say(state, detail = "") {
    this.state = state;
    this.detail = detail;
    this.onChange();
  }

  /** Run one session until it is lost or `signal` aborts. True if it was ever connected. */
  async #once(signal) {
    const peer = new RTCPeerConnection();
    const ended = new AbortController();
    signal.addEventListener("abort", () => ended.abort(), { once: true });
    let connected = false;
    try {
      const track = this.stream.getVideoTracks()[0];
      const gone = () => this.#end("failed", "The camera was disconnected or taken away. Start again.");
      if (track.readyState === "ended") return gone(); // it ended while there was no connection
      track.addEventListener("ended", gone, { signal: ended.signal });
      peer.addTransceiver(track, { direction: "sendonly", streams: [this.stream] });
      await peer.setLocalDescription(await peer.createOffer());
      await gathered(peer);
      const answer = await this.api.send(`/whip/${this.camera}`, {
        method: "POST", raw: peer.localDescription.sdp, headers: { "Content-Type": "application/sdp" }, signal });
      this.session = answer.headers.get("Location");
      peer.addEventListener("connectionstatechange", () => {
        if (peer.connectionState === "connected") { connected = true; this.#say("live"); }
        else if (peer.connectionState === "failed" || peer.connectionState === "closed") ended.abort();
        else if (peer.connectionState === "disconnected") this.#isAlive().then(alive => alive || ended.abort());
      });
      await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
      await sleep(CONNECT_TIMEOUT_S, ended.signal);
      while (connected && !ended.signal.aborted) {
        await sleep(LONGEST_WAIT_S, ended.signal);
        if (!ended.signal.aborted && !await this.#isAlive()) break;
      }
      if (!signal.aborted && await this.#wasReplaced()) this.#end("failed", `Another device publishes as “${this.camera}” now.`);
    } finally {
      ended.abort();
      peer.close();
    }
    return connected;
  }

  /** The HTTP status of the session on the server; 0 when the server does not answer. */
  async #status() {
    if (!this.session) return 404;
    try {
      return (await this.api.send(this.session)).status;
    } catch (error) {
      return error.status ?? 0;
    }
  }

  async #isAlive() { return await this.#status() === 204; }

  async #wasReplaced() { return await this.#status() === 410; }

  #leave(unloading) {
    if (!this.session) return;
    fetch(address(this.session), { method: "DELETE", headers: this.api.headers(), keepalive: unloading }).catch(() => {});
    this.session = "";
  }

  /** Keep a phone's screen on, because publishing stops when it turns off. */
  async #stayAwake() {
    if (!this.running || document.hidden) return;
    this.wakeLock = await navigator.wakeLock?.request("screen").catch(() => undefined);
  }
}

/** Wait until the offer has all its network addresses. @param {RTCPeerConnection} peer */
export async function gathered(peer) {
  while (peer.iceGatheringState !== "complete") {
    await new Promise(next => peer.addEventListener("icegatheringstatechange", next, { once: true }));
  }
}
