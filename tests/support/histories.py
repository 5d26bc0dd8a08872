"""Large histories without an encoder: frames whose embeddings have a chosen relevance to a question."""

import functools
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from agent.app import Agent

QUESTION = "Who came?"


def write_history(
    agent: Agent, camera: str, times: np.ndarray, relevance: Callable[[int], float], *, question: str = QUESTION
) -> list[int]:
    """Store a frame at each of `times` (rising, unix seconds) and return the frame ids.

    The cosine of frame `n` with the question is `relevance(n)`; otherwise frames are nearly orthogonal to one another.
    """
    info = agent.model.info
    unit = agent.model.embed_text(question).unit.astype(np.float64)
    rng = np.random.default_rng(0)
    summary = np.zeros(info.patch_width, np.float32)
    ids = []
    for n, time in enumerate(times.tolist()):
        away = rng.normal(size=info.embedding_dim)
        away -= (away @ unit) * unit
        away /= np.linalg.norm(away)
        cosine = relevance(n)
        embedding = cosine * unit + math.sqrt(1 - cosine**2) * away
        frame_id = agent.store.append(camera, time, drawn_jpeg(n % 50))
        agent.store.attach(frame_id, embedding=embedding.astype(np.float32), summary=summary)
        ids.append(frame_id)
    return ids


@functools.cache
def drawn_jpeg(number: int) -> bytes:
    """Draw a coloured box on a coloured ground; return it as a JPEG."""
    rng = np.random.default_rng(number)
    ground, box = (tuple(int(v) for v in rng.integers(low, low + 90, 3)) for low in (60, 150))
    image = Image.new("RGB", (160, 90), ground)
    left, top = 8 + number * 2, 20 + int(rng.integers(40))
    ImageDraw.Draw(image).rectangle((left, top, left + 30, top + 22), fill=box)
    written = io.BytesIO()
    image.save(written, "JPEG")
    return written.getvalue()
