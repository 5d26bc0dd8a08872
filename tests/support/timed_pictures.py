"""Pictures that show when they were drawn, and of which every part can be checked: a picture that is damaged is found out.

A picture is a grid of COLUMNS x ROWS grey cells. The first two rows are a bar code: the milliseconds of unix
time modulo 2**32, then a checksum of eight bits. Each other cell changes every 0.8 s, not all at once, so that a lost picture
leaves wrong cells behind. `SCRIPT` draws the same on a canvas in a browser.
"""

import time

import numpy as np

COLUMNS, ROWS, BARS = 20, 12, 2
_STEP_MS, _STEPS = 100, 8
_TOLERANCE = 25.0  # levels are 50 apart

SCRIPT = """(context, width, height, ms) => {
  const bits = ms => { let text = ""; const low = ms % 4294967296; let sum = 0;
    for (let i = 31; i >= 0; i--) text += Math.floor(low / 2 ** i) % 2;
    for (let i = 0; i < 4; i++) sum += Math.floor(low / 256 ** i) % 256;
    for (let i = 7; i >= 0; i--) text += Math.floor((sum % 256) / 2 ** i) % 2;
    return text; };
  const code = bits(ms), step = Math.floor(ms % 4294967296 / 100);
  for (let j = 0; j < 12; j++) for (let i = 0; i < 20; i++) {
    const level = j < 2 ? (code[j * 20 + i] === "1" ? 220 : 30)
      : 40 + 50 * ((Math.floor((step + 7 * i + 13 * j) / 8) * 3 + i + j) % 4);
    context.fillStyle = `rgb(${level},${level},${level})`;
    context.fillRect(Math.floor(i * width / 20), Math.floor(j * height / 12),
      Math.ceil(width / 20) + 1, Math.ceil(height / 12) + 1);
  }
}"""


def _levels(ms: int) -> np.ndarray:
    """Return the grey levels of all cells, float (ROWS, COLUMNS)."""
    checksum = sum(ms >> shift & 255 for shift in (0, 8, 16, 24)) % 256
    bits = f"{ms:032b}{checksum:08b}"
    i, j = np.arange(COLUMNS)[None, :], np.arange(ROWS)[:, None]
    levels = 40.0 + 50 * (((ms // _STEP_MS + 7 * i + 13 * j) // _STEPS * 3 + i + j) % 4)
    levels[:BARS] = np.where(np.array(list(bits)) == "1", 220.0, 30.0).reshape(BARS, COLUMNS)
    return levels


def draw_grey(ms: int, width: int, height: int) -> np.ndarray:
    """Return the picture of a time, uint8 (height, width). `ms`: milliseconds of unix time modulo 2**32."""
    columns, rows = np.arange(width) * COLUMNS // width, np.arange(height) * ROWS // height
    return _levels(ms).astype(np.uint8)[rows[:, None], columns[None, :]]


def now_ms() -> int:
    return int(time.time() * 1000) % 2**32


def draw_rgb(ms: int, width: int, height: int) -> np.ndarray:
    return np.repeat(draw_grey(ms, width, height)[:, :, None], 3, axis=2)


def draw_i420(ms: int, width: int, height: int) -> bytes:
    """Return the picture as raw I420, in the limited range of video."""
    luma = (16 + draw_grey(ms, width, height).astype(np.float32) * (219 / 255)).astype(np.uint8)
    return luma.tobytes() + bytes([128]) * (width // 2 * (height // 2) * 2)


def read(image: np.ndarray) -> tuple[int | None, bool]:
    """Return when a picture was drawn (None if that cannot be read), and whether any cell is wrong. uint8 (H, W, 3)."""
    grey = image.mean(axis=2)
    height, width = grey.shape
    cells = np.array(
        [
            [
                grey[
                    int((j + 0.25) * height / ROWS) : int((j + 0.75) * height / ROWS) + 1,
                    int((i + 0.25) * width / COLUMNS) : int((i + 0.75) * width / COLUMNS) + 1,
                ].mean()
                for i in range(COLUMNS)
            ]
            for j in range(ROWS)
        ]
    )
    bits = "".join("1" if level > 125 else "0" for level in cells[:BARS].ravel())
    ms = int(bits[:32], 2)
    expected = _levels(ms)
    if (expected[:BARS] > 125).tolist() != (cells[:BARS] > 125).tolist():
        return None, True
    return ms, bool((abs(cells[BARS:] - expected[BARS:]) > _TOLERANCE).any())


def age_s(ms: int, at: float) -> float:
    """Return how many seconds before `at` (unix seconds) a picture was drawn."""
    difference = (int(at * 1000) - ms + 2**31) % 2**32 - 2**31
    return difference / 1000
