"""Publish four seconds of pictures with FFmpeg's WHIP muxer.

    python -m tests.support.ffmpeg_whip URL TOKEN CERTIFICATE KEY

It runs in a process of its own because the muxer holds the GIL while it waits for answers. The certificate is given because
FFmpeg 8.1 built with GnuTLS makes one with a curve that WebRTC peers refuse.
"""

import fractions
import sys
import time

import av

from tests.support.streams import picture

RATE_HZ = 15


def publish(url: str, token: str, certificate: str, key: str) -> None:
    options = {"authorization": token, "cert_file": certificate, "key_file": key}
    with av.open(url, "w", format="whip", options=options) as container:
        stream = container.add_stream("libx264", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.options = {"tune": "zerolatency", "profile": "baseline"}
        stream.max_b_frames, stream.gop_size = 0, RATE_HZ
        started = time.monotonic()
        for index in range(4 * RATE_HZ):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index, fractions.Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
            time.sleep(max(0.0, started + index / RATE_HZ - time.monotonic()))


if __name__ == "__main__":
    publish(*sys.argv[1:])
