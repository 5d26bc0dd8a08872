"""Browsers publish a canvas, without permission for a camera, so that they hide their addresses behind mDNS names."""

import asyncio
import shutil
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tests.support.streams import LOOPBACK_ALONE, TOKEN, take, whip_site

PAGE = """<!doctype html><canvas id=c width=320 height=240></canvas><script>
const context = c.getContext("2d"); let n = 0;
setInterval(() => { context.fillStyle = `hsl(${n++ * 7} 90% 50%)`; context.fillRect(0, 0, 320, 240); }, 66);
(async () => {
  const peer = new RTCPeerConnection();
  for (const track of c.captureStream(15).getTracks()) peer.addTransceiver(track, { direction: "sendonly" });
  await peer.setLocalDescription(await peer.createOffer());
  if (peer.iceGatheringState !== "complete")
    await new Promise(done => peer.addEventListener("icegatheringstatechange",
      () => peer.iceGatheringState === "complete" && done()));
  const headers = { "Content-Type": "application/sdp", Authorization: "Bearer TOKEN" };
  const answer = await fetch("/whip/door", { method: "POST", body: peer.localDescription.sdp, headers });
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
})();
</script>"""
BROWSERS = {
    "chromium": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir={0}"],
    "firefox-esr": ["--headless", "--no-remote", "--profile", "{0}"],
}


@pytest.mark.skipif(LOOPBACK_ALONE, reason="browsers do not offer loopback addresses")
@pytest.mark.skipif(sys.platform != "linux", reason="the browsers' commands are those of Debian")
@pytest.mark.parametrize("name", BROWSERS)
async def test_a_browser_that_hides_its_addresses_publishes(name: str, tmp_path: Path) -> None:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name}: apt-get install {name}")
    offers: list[str] = []

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE.replace("TOKEN", TOKEN))

    async with whip_site(pages={"/": page}) as site, AsyncExitStack() as ending:
        check = site.server._negotiate

        async def negotiate(camera: str, offer: object, converse: object) -> object:
            offers.append(str(offer))
            return await check(camera, offer, converse)  # type: ignore[arg-type]

        site.server._negotiate = negotiate  # type: ignore[method-assign, assignment]
        arguments = [each.format(tmp_path) for each in BROWSERS[name]]
        quiet = asyncio.subprocess.DEVNULL
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        browser = await asyncio.create_subprocess_exec(
            path, *arguments, site.base + "/", stdout=quiet, stderr=quiet, env=environment, start_new_session=True
        )
        ending.push_async_callback(browser.wait)
        ending.callback(browser.terminate)
        async with asyncio.timeout(60):
            while not site.sources:
                await asyncio.sleep(0.05)
            assert len(await take(site.sources[0].frames(), 3)) == 3
        assert ".local" in offers[0]
