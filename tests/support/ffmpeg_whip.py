"""Publish some seconds of pictures with FFmpeg's WHIP muxer.

    python -m tests.support.ffmpeg_whip URL TOKEN SECONDS

It runs in a process of its own because the muxer holds the GIL while it waits for answers. FFmpeg is given a certificate
because FFmpeg 8.1 built with GnuTLS makes one with a curve that WebRTC peers refuse.
"""

import datetime
import fractions
import sys
import tempfile
import time
from pathlib import Path

import av
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.streams import picture

RATE_HZ = 15


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate on the curve P-256, which all WebRTC peers must accept (RFC 8827)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "publisher")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def publish(url: str, token: str, seconds: float, folder: Path) -> None:
    certificate, key = write_certificate(folder)
    options = {"authorization": token, "cert_file": str(certificate), "key_file": str(key)}
    with av.open(url, "w", format="whip", options=options) as container:
        stream = container.add_stream("libx264", rate=RATE_HZ)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.options = {"tune": "zerolatency", "profile": "baseline"}
        stream.max_b_frames, stream.gop_size = 0, RATE_HZ
        started = time.monotonic()
        for index in range(round(seconds * RATE_HZ)):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = index, fractions.Fraction(1, RATE_HZ)
            container.mux(stream.encode(frame))
            time.sleep(max(0.0, started + index / RATE_HZ - time.monotonic()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        publish(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(folder))
