"""Live views through the agent: a viewer in Chromium, and the cameras that have none."""

from pathlib import Path
from typing import Any

import httpx

from streaming.publisher import publish
from tests.support.agents import Served, served
from tests.support.browser import browser, expect, needs_chromium, visit
from tests.support.streams import track, write_clip
from tests.support.waiting import until

SECRET = "a-token-of-these-tests"
SETTINGS: dict[str, Any] = {
    "security": {"tokens": [{"name": "all", "token": SECRET, "scopes": ["publish:*", "ask"]}]},
    "cameras": {"masked": {"masks": [[[0, 0], [1, 0], [1, 1]]]}, "idle": {}},
}
VIEW = """async token => {
  const peer = new RTCPeerConnection();
  peer.addTransceiver("video", { direction: "recvonly" });
  const video = document.createElement("video");
  video.muted = true;
  peer.addEventListener("track", event => { video.srcObject = new MediaStream([event.track]); video.play(); });
  await peer.setLocalDescription(await peer.createOffer());
  if (peer.iceGatheringState !== "complete")
    await new Promise(done => peer.addEventListener("icegatheringstatechange",
      () => peer.iceGatheringState === "complete" && done()));
  const headers = { "Content-Type": "application/sdp", Authorization: `Bearer ${token}` };
  const answer = await fetch("/whep/door", { method: "POST", body: peer.localDescription.sdp, headers });
  if (answer.status !== 201) return { error: await answer.text() };
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  for (let n = 0; n < 300 && video.getVideoPlaybackQuality().totalVideoFrames < 20; n++)
    await new Promise(done => setTimeout(done, 50));
  return { frames: video.getVideoPlaybackQuality().totalVideoFrames, width: video.videoWidth };
}"""


async def post(at: Served, camera: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/sdp"}
        return await http.post(f"{at.url}/whep/{camera}", content="v=0", headers=headers)


@needs_chromium
async def test_chromium_views_what_a_publisher_sends(tmp_path: Path) -> None:
    async with served(tmp_path, **SETTINGS) as at, browser(camera=False) as chromium:
        for codec in ("H264", "VP8"):
            async with publish(f"{at.url}/whip/door", SECRET, track(), codec=codec):  # type: ignore[arg-type]
                await until(lambda: at.agent.cameras.state("door") == "live")
                page = await chromium.new_page()
                await page.goto(at.url)
                seen = await page.evaluate(VIEW, SECRET)
                assert seen.get("frames", 0) >= 20, seen
                assert seen["width"] == 160
                await page.close()
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{at.url}/metrics", headers={"Authorization": f"Bearer {SECRET}"})).text
        assert "vilamp_whep_opened_total 2.0" in metrics


@needs_chromium
async def test_the_page_shows_one_camera_live_and_else_its_newest_frame(tmp_path: Path) -> None:
    async with served(tmp_path, **SETTINGS) as at, browser(camera=False) as chromium, visit(chromium) as seen:
        page = seen.page
        async with publish(f"{at.url}/whip/door", SECRET, track()), publish(f"{at.url}/whip/masked", SECRET, track()):
            await until(lambda: at.agent.store.stats("door").frames and at.agent.store.stats("masked").frames)
            await page.goto(f"{at.url}/#token={SECRET}")
            door = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="door"))
            masked = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="masked"))
            await door.get_by_role("button", name="Watch live").click()
            await expect(door.locator("video")).to_be_visible()
            await page.wait_for_function("document.querySelector('video:not([hidden])').videoWidth === 160")
            await masked.get_by_role("button", name="Watch live").click()  # a page watches one camera at a time
            await expect(masked).to_contain_text("what its masks cover")
            await expect(masked.get_by_role("img")).to_be_visible()
            await expect(door.get_by_role("img")).to_be_visible()
            await door.get_by_role("button", name="Watch live").click()
            await expect(door.locator("video")).to_be_visible()
        await expect(door.locator("video")).to_be_hidden()  # the publisher has left
        await expect(door.get_by_role("img")).to_be_visible()
        seen.unharmed(requests=False)
        assert all("409" in refused for refused in seen.refused), seen.refused


async def test_cameras_without_a_live_view_say_why(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", num=100)
    settings = {**SETTINGS, "cameras": {**SETTINGS["cameras"], "film": {"url": str(clip)}}}
    async with served(tmp_path / "data", **settings) as at:
        assert (await post(at, "nowhere")).status_code == 404
        for camera, words in (("masked", "what its masks cover"), ("idle", "no live video"), ("film", "no live video")):
            refused = await post(at, camera)
            assert refused.status_code == 409
            assert words in refused.json()["detail"]
            assert f"GET /v1/cameras/{camera}" in refused.json()["detail"]
