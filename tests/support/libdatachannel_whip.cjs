// Publish RTP packets that arrive on a UDP port with libdatachannel over WHIP: node libdatachannel_whip.cjs URL TOKEN VP8|H264.
// Prints the port.
const dgram = require("node:dgram");
const { PeerConnection, Video } = require("node-datachannel");

const [url, token, codec] = process.argv.slice(2);
const peer = new PeerConnection("publisher", { iceServers: [] });
const video = new Video("video", "SendOnly");
if (codec === "H264") video.addH264Codec(96); else video.addVP8Codec(96);
video.addSSRC(42, "publisher");
const track = peer.addTrack(video);

async function post() {
  const headers = { "Content-Type": "application/sdp", Authorization: "Bearer " + token };
  const answer = await fetch(url, { method: "POST", body: peer.localDescription().sdp, headers });
  const text = await answer.text();
  if (answer.status !== 201) throw new Error(text);
  peer.setRemoteDescription(text, "answer");
  const udp = dgram.createSocket("udp4");
  udp.on("message", packet => {
    if (!track.isOpen()) return;
    packet.writeUInt32BE(42, 8);
    track.sendMessageBinary(packet);
  });
  udp.bind(0, "127.0.0.1", () => console.log(udp.address().port));
}
peer.onGatheringStateChange(state => {
  if (state === "complete") post().catch(error => { console.error(error); process.exit(1); });
});
peer.setLocalDescription();
