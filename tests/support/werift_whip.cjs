// Publish RTP packets that arrive on a UDP port with werift over WHIP: node werift_whip.cjs URL TOKEN VP8|H264. Prints the port.
const dgram = require("node:dgram");
const { MediaStreamTrack, RTCPeerConnection, RTCRtpCodecParameters } = require("werift");

const [url, token, codec] = process.argv.slice(2);
const parameters = codec === "H264" ? "packetization-mode=1;profile-level-id=42e01f;level-asymmetry-allowed=1" : undefined;
const rtcpFeedback = [{ type: "nack" }, { type: "nack", parameter: "pli" }];
const video = [new RTCRtpCodecParameters({ mimeType: "video/" + codec, clockRate: 90000, payloadType: 96, rtcpFeedback, parameters })];

async function main() {
  const peer = new RTCPeerConnection({ iceServers: [], codecs: { video } });
  const track = new MediaStreamTrack({ kind: "video" });
  peer.addTransceiver(track, { direction: "sendonly" });
  await peer.setLocalDescription(await peer.createOffer());
  const headers = { "Content-Type": "application/sdp", Authorization: "Bearer " + token };
  const answer = await fetch(url, { method: "POST", body: peer.localDescription.sdp, headers });
  if (answer.status !== 201) throw new Error(await answer.text());
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  const udp = dgram.createSocket("udp4");
  udp.on("message", packet => track.writeRtp(packet));
  udp.bind(0, "127.0.0.1", () => console.log(udp.address().port));
}
main().catch(error => { console.error(error); process.exit(1); });
