"""A process that publishes the same H.264 clip as several cameras. The clip is encoded beforehand, so sending is cheap.

    python -m benchmarks.publisher --url http://127.0.0.1:8080 --token ... --clip clip.h264 --cameras gate yard

Ends after --seconds and prints one JSON line: frames sent by each camera. `write_clip` makes the clip.
"""

import argparse
import asyncio
import json
import time
from contextlib import AsyncExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from aiortc import MediaStreamTrack

from model.world.draw import draw
from model.world.scene import Scene
from streaming.publisher import publish

RATE_HZ = 30
CLOCK = Fraction(1, 90_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--cameras", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(send(args))), flush=True)


async def send(args: argparse.Namespace) -> dict[str, int]:
    packets = read_clip(args.clip)
    tracks = {camera: ClipTrack(packets) for camera in args.cameras}
    async with AsyncExitStack() as stack:
        for camera, track in tracks.items():
            url = f"{args.url}/whip/{camera}"
            publication = await stack.enter_async_context(publish(url, args.token, track, codec="H264"))
            await publication.wait_connected()
        await asyncio.sleep(args.seconds)
    return {camera: track.num_sent for camera, track in tracks.items()}


class ClipTrack(MediaStreamTrack):
    """Encoded pictures at RATE_HZ in a loop. aiortc sends the packets unchanged."""

    kind = "video"

    def __init__(self, packets: list[bytes]) -> None:
        super().__init__()
        self._packets = packets
        self._started = 0.0
        self.num_sent = 0

    async def recv(self) -> av.Packet:
        """Return the next picture when it is due."""
        self._started = self._started or time.monotonic()
        await asyncio.sleep(max(0.0, self._started + self.num_sent / RATE_HZ - time.monotonic()))
        packet = av.Packet(self._packets[self.num_sent % len(self._packets)])
        packet.pts, packet.time_base = self.num_sent * 90_000 // RATE_HZ, CLOCK
        self.num_sent += 1
        return packet


def read_clip(path: Path) -> list[bytes]:
    """Return one entry per picture, in Annex B format."""
    with av.open(str(path), format="h264") as clip:
        return [bytes(packet) for packet in clip.demux(video=0) if packet.size]


def write_clip(path: Path, *, seconds: float, width: int = 1280, height: int = 720) -> Path:
    """Write a drawn world at RATE_HZ with sensor noise, H.264 at about 2 Mbit/s, a key frame each second. Returns `path`."""
    scene = Scene.from_seed(11, duration_s=600.0, style="fixed", split="eval")
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format="h264") as clip:
        stream = clip.add_stream("libx264", rate=RATE_HZ, options={"preset": "veryfast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.gop_size = 2_000_000, RATE_HZ
        stream.profile = "Baseline"
        for number in range(round(seconds * RATE_HZ)):
            image = draw(scene, 60.0 + number / RATE_HZ, width, height).astype(np.int16)
            image += rng.integers(-3, 4, (height, width, 1), np.int16)
            frame = av.VideoFrame.from_ndarray(np.clip(image, 0, 255).astype(np.uint8), format="rgb24")
            clip.mux(stream.encode(frame.reformat(format="yuv420p")))
        clip.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
