"""Writes a contact sheet: one PNG picture with questions, their answers and the evidence frames of each."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

TILE_WIDTH, TILE_HEIGHT = 240, 180  # pixels; pictures keep their aspect ratio
GAP = 12
CAPTION_HEIGHT = 20
LINE_HEIGHT = 24
WIDTH_CHARS = 100
NUM_COLUMNS = 4
_PAPER, _INK, _GREY, _MARK = (250, 250, 248), (25, 25, 25), (110, 110, 110), (255, 196, 0)

_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True, slots=True)
class Tile:
    """One frame on the sheet, with its caption."""

    jpeg: bytes
    caption: str
    boxes: Sequence[Sequence[float]] = ()  # left, top, right, bottom as shares of the picture


@dataclass(frozen=True, slots=True)
class Section:
    """One question on the sheet, with its answer (which may have line breaks) and its evidence frames."""

    title: str
    text: str
    tiles: Sequence[Tile]


def write_sheet(path: Path, sections: Sequence[Section]) -> None:
    """Write a PNG to `path` with the sections one below the other. Raises OSError when it cannot be written."""
    width = NUM_COLUMNS * (TILE_WIDTH + GAP) + GAP
    sheet = Image.new("RGB", (width, GAP + sum(map(_height, sections))), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = GAP
    for section in sections:
        _draw_section(sheet, draw, section, y)
        y += _height(section)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def _lines(text: str) -> list[str]:
    return [line for part in text.splitlines() for line in (textwrap.wrap(part, WIDTH_CHARS) or [""])]


def _height(section: Section) -> int:
    num_rows = -(-len(section.tiles) // NUM_COLUMNS)
    num_lines = len(_lines(section.title)) + len(_lines(section.text))
    return num_lines * LINE_HEIGHT + num_rows * (TILE_HEIGHT + CAPTION_HEIGHT + GAP) + 2 * GAP


def _draw_section(sheet: Image.Image, draw: ImageDraw.ImageDraw, section: Section, y: int) -> None:
    """Draw a section at height `y`: its lines of text, then its tiles in rows.

    Rows and columns count from 0: with 4 columns, tile 5 is in row 1, column 1."""
    title_font, text_font, caption_font = _font(17), _font(15), _font(12)
    for text, font, ink in ((section.title, title_font, _INK), (section.text, text_font, _GREY)):
        for line in _lines(text):
            draw.text((GAP, y), line, ink, font)
            y += LINE_HEIGHT
    for index, tile in enumerate(section.tiles):
        row, column = divmod(index, NUM_COLUMNS)
        left, top = GAP + column * (TILE_WIDTH + GAP), y + row * (TILE_HEIGHT + CAPTION_HEIGHT + GAP)
        sheet.paste(_fitted(tile), (left, top))
        draw.text((left, top + TILE_HEIGHT + 3), tile.caption, _INK, caption_font)


def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _fitted(tile: Tile) -> Image.Image:
    """Return the tile's picture at tile size with its boxes drawn. If its bytes are no picture, return a dark tile."""
    ground = Image.new("RGB", (TILE_WIDTH, TILE_HEIGHT), (40, 40, 40))
    try:
        with Image.open(io.BytesIO(tile.jpeg)) as image:
            picture = image.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return ground
    picture.thumbnail((TILE_WIDTH, TILE_HEIGHT))
    draw = ImageDraw.Draw(picture)
    for left, top, right, bottom in tile.boxes:
        corners = (left * picture.width, top * picture.height, right * picture.width - 1, bottom * picture.height - 1)
        draw.rectangle(corners, outline=_MARK, width=2)
    ground.paste(picture, ((TILE_WIDTH - picture.width) // 2, (TILE_HEIGHT - picture.height) // 2))
    return ground
