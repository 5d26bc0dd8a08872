"""Publish timed pictures from a page in Chromium over WHIP, with or without simulcast."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.support.browser import browser
from tests.support.timed_pictures import SCRIPT

_PUBLISH = """async ([url, token, script, width, height, rate, codec, layers]) => {
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), draw = eval(script);
  const [track] = canvas.captureStream(rate).getVideoTracks();
  setInterval(() => draw(context, width, height, Date.now()), 1000 / rate);
  const peer = window.peer = new RTCPeerConnection({ iceServers: [] });
  const scaled = layers.map((rid, index) => ({ rid, scaleResolutionDownBy: 2 ** (layers.length - 1 - index) }));
  const sender = peer.addTransceiver(track, { direction: "sendonly", ...(layers.length && { sendEncodings: scaled }) });
  const codecs = RTCRtpSender.getCapabilities("video").codecs;
  const named = name => codecs.filter(each => each.mimeType === "video/" + name);
  sender.setCodecPreferences([...named(codec), ...named("rtx")]);
  await peer.setLocalDescription(await peer.createOffer());
  while (peer.iceGatheringState !== "complete") await new Promise(done => setTimeout(done, 50));
  const headers = { "Content-Type": "application/sdp", Authorization: "Bearer " + token };
  const answer = await fetch(url, { method: "POST", body: peer.localDescription.sdp, headers });
  const text = await answer.text();
  if (answer.status !== 201) throw new Error(text);
  await peer.setRemoteDescription({ type: "answer", sdp: text });
}"""


@asynccontextmanager
async def publishing(
    url: str, token: str, codec: str, width: int, height: int, rate_hz: int, layers: Sequence[str] = ()
) -> AsyncIterator[None]:
    """Publish during the block. `layers`: names of the layers of a simulcast, each twice as large as the one before."""
    async with browser(camera=False) as chromium:
        page = await chromium.new_page()
        await page.goto(url.rsplit("/", 2)[0] + "/")  # any page of the site: a page of nobody may send nothing
        await page.evaluate(_PUBLISH, [url, token, SCRIPT, width, height, rate_hz, codec, list(layers)])
        yield
