// Shows the live video of one camera at a time over WHEP. It uses no page elements but the video element it is given.

import { address } from "./api.js";
import { sleep } from "./dom.js";
import { gathered } from "./publisher.js";

const GATHER_S = 3, CONNECT_TIMEOUT_S = 15;

/** Ends the view that is open; views are limited, so a page keeps one. */
let endOther = () => {};

/**
 * Show the camera in the video element until `signal` aborts, another camera is shown or the view ends. Throws ApiError
 * (there is no live view; `message` says why) or Away.
 * @param {import("./api.js").Api} api @param {string} camera @param {HTMLVideoElement} video @param {AbortSignal} signal
 */
export async function view(api, camera, video, signal) {
  endOther();
  const ended = new AbortController(), end = () => ended.abort();
  endOther = end;
  signal.addEventListener("abort", end, { once: true });
  addEventListener("pagehide", end, { once: true });
  const peer = new RTCPeerConnection();
  let session = "", connected = false;
  try {
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.addEventListener("track", event => {
      video.srcObject = new MediaStream([event.track]);
      video.play().catch(() => {}); // the browser forbids it, or the view has ended meanwhile
    });
    peer.addEventListener("connectionstatechange", () => {
      connected ||= peer.connectionState === "connected";
      if (["failed", "closed", "disconnected"].includes(peer.connectionState)) end();
    });
    await peer.setLocalDescription(await peer.createOffer());
    await Promise.race([gathered(peer), sleep(GATHER_S, ended.signal)]);
    const answer = await api.send(`/whep/${camera}`, {
      method: "POST", raw: peer.localDescription.sdp, headers: { "Content-Type": "application/sdp" }, signal: ended.signal });
    session = answer.headers.get("Location");
    await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
    await sleep(CONNECT_TIMEOUT_S, ended.signal);
    if (connected && !ended.signal.aborted) await new Promise(next => ended.signal.addEventListener("abort", next, { once: true }));
  } catch (error) {
    if (!ended.signal.aborted) throw error;
  } finally {
    end();
    peer.close();
    video.srcObject = null;
    const unknown = session && !connected; // the server learns of the end of a connection by itself
    if (unknown) fetch(address(session), { method: "DELETE", headers: api.headers(), keepalive: true }).catch(() => {});
  }
}
