"""Draws a character: black on white, in the middle of a small square."""

from __future__ import annotations

import functools

from PIL import Image, ImageDraw, ImageFont

from ega_jax.data.glyphs.faces import Face

# Parts of the picture's side. Capitals of every face are equally tall, and the baseline stays where it is while
# the glyph fits: "o" and "O", or "-" and "_", would be one picture if each were stretched to fill the square.
_CAPITAL_HEIGHT = 20 / 32
_BASELINE = 25 / 32
_MARGIN = 1 / 32


def draw(face: Face, char: str, size: int) -> bytes | None:
    """Draws one character with one face.

    Args:
      face: a face that has a glyph for the character.
      char: the character.
      size: side of the picture in pixels.

    Returns:
      The pixels, row-major, one byte each (0 ink, 255 paper), `size * size` in all; None when nothing shows.
    """
    margin = round(_MARGIN * size)
    room = size - 2 * margin
    scale = _CAPITAL_HEIGHT * size / _relative_capital_height(face)
    font = _font(face, scale)
    left, top, right, bottom = font.getbbox(char, anchor="ls")
    if right <= left or bottom <= top:
        return None
    while (extent := max(right - left, bottom - top)) > room:  # hinting may keep a pixel that scaling would not
        scale = min(scale - 0.5, int(2 * scale * room / extent) / 2)
        font = _font(face, scale)
        left, top, right, bottom = font.getbbox(char, anchor="ls")
    # The advance box is centred, not the ink: where a Braille dot sits in its cell is what it means.
    x = _clamp(round((size - font.getlength(char)) / 2), margin - left, size - margin - right)
    y = _clamp(round(_BASELINE * size), margin - top, size - margin - bottom)
    picture = Image.new("L", (size, size), 255)
    ImageDraw.Draw(picture).text((x, y), char, fill=0, font=font, anchor="ls")
    pixels = picture.tobytes()
    return pixels if min(pixels) < 128 else None


def _clamp(value: float, low: float, high: float) -> float:
    return max(low, min(value, high))


@functools.cache
def _font(face: Face, size: float) -> ImageFont.FreeTypeFont:
    # The basic layout engine gives the same glyph whether or not Pillow was built with raqm.
    return ImageFont.truetype(str(face.path), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _relative_capital_height(face: Face) -> float:
    """Height of "H" as a part of the font size."""
    return -_font(face, 1000).getbbox("H", anchor="ls")[1] / 1000
