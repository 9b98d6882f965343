"""Images from files that nobody has checked: decoded whole, upright and within limits, or refused with a
reason.

Only common raster formats are read. Pillow would otherwise try every plugin it has on any file, whatever its
name, and one of them (EPS) starts an interpreter of programs. A refusal is an `ImageError` whose message is a
clause that fits behind a file's name; the reader that knows the row makes a `BadRecordError` of it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is read; a file's content decides, not its name."""

MAX_PIXELS = 89_478_485
"""The default limit on height * width: an RGB picture of 256 MiB, where Pillow starts to warn."""

# What preprocessing can tell apart: it composites the modes with transparency and converts the rest to RGB.
_KEPT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation: what turns the stored picture upright


class ImageError(ValueError):
    """A file is not an image that can be used, or a path does not lead to one; the message is a clause."""


class MissingImageError(ImageError):
    """A path is sound but leads to nothing."""


class StoredImage:
    """An encoded picture inside a larger file; `str` names it.

    Attributes:
      identity: equal identities are the same picture; "" where only the name tells.
      size: (height, width) where it is known without reading.
    """

    __slots__ = ()
    identity: str = ""
    size: tuple[int, int] | None = None

    def read_bytes(self) -> bytes:
        """The bytes of the encoded picture.

        Raises:
          ImageError: they cannot be read.
        """
        raise NotImplementedError


def identity(source: Path | StoredImage | Image.Image) -> str:
    """What makes two pictures the same: a path, the hash or name of a stored picture; one in memory is only itself."""
    if isinstance(source, StoredImage):
        return source.identity or str(source)
    return str(source) if isinstance(source, Path) else str(id(source))


Source = Path | str | bytes | StoredImage | Image.Image
"""What a picture can come from."""


def open_image(source: Source, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes one image whole.

    - A file is turned upright by its EXIF orientation; a given picture is taken as it stands.
    - Of an animation, the first frame; of a given picture, the current one.
    - The mode is kept (with `info["transparency"]`, and no other info), except that 16-bit greys become "L", 0..65535
      scaled to 0..255 (Pillow's own conversion clips them to white), and that CMYK, YCbCr and HSV become "RGB" by
      Pillow's formulas, without colour profiles. Integer and float greys have no known range and are refused.
    - The limit on pixels holds before anything is decoded.

    Args:
      source: a path, the bytes of a file, a picture inside a larger file, or a picture.
      max_pixels: the largest height * width.

    Returns:
      A picture in memory that holds no open file; a given picture itself where nothing had to be changed.

    Raises:
      ImageError: missing, not a regular file, not in `FORMATS`, too large, of zero size, truncated or corrupt.
      RuntimeError: the process has set Pillow's `LOAD_TRUNCATED_IMAGES`, so truncation cannot be seen.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process: half-read pictures would pass")
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels)
        with _reasons("corrupt"):
            source.load()
        return _normalize_mode(source)
    with _named(source), _opened(source, max_pixels) as image:
        transpose = _TRANSPOSE.get(_orientation(image))
        with _reasons("corrupt"):
            image.load()
            picture = image.copy() if transpose is None else image.transpose(transpose)
        picture.info = {key: value for key, value in picture.info.items() if key == "transparency"}
        return _normalize_mode(picture)


def image_size(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of what `open_image` would return, from the header alone.

    Raises:
      ImageError: as `open_image`, as far as the header shows.
    """
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels)
        return source.height, source.width
    if isinstance(source, StoredImage) and source.size is not None:
        return source.size
    with _named(source), _opened(source, max_pixels) as image:
        sideways = _orientation(image) >= 5
        return (image.width, image.height) if sideways else (image.height, image.width)


def resolve_path(directory: Path | str, relative: str, store: Path | None = None) -> Path:
    """The path of a regular file inside `directory`, from a path written in data that nobody has checked.

    Args:
      directory: what the path is relative to.
      relative: the path.
      store: another directory that links may lead into.

    Raises:
      MissingImageError: it leads to nothing.
      ImageError: `relative` is empty, absolute or a URL; it holds "..", a NUL byte or a link out of `directory`; or it
        leads to a directory.
    """
    if not relative:
        raise ImageError("empty path")
    if "\0" in relative:
        raise ImageError(f"path with a NUL byte: {relative!r}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|(data|file):", relative):
        raise ImageError(f"URLs are not read: {relative[:80]!r}")
    # A Windows path splits at both kinds of slash: what is absolute or climbs on any system is refused on
    # all.
    windows = PureWindowsPath(relative)
    if windows.anchor:
        raise ImageError(f"absolute path: {relative!r}")
    if ".." in windows.parts:
        raise ImageError(f"path with '..': {relative!r}")
    path = Path(directory, relative)
    try:
        real = os.path.realpath(path, strict=True)
        mode = os.stat(real).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MissingImageError(f"no such image file: {relative!r} ({reason})") from None
    inside = [os.path.realpath(home) for home in (directory, store) if home is not None]
    if not any(map(Path(real).is_relative_to, inside)):
        raise ImageError(f"a link out of the data directory: {relative!r} leads to {real}")
    if not stat.S_ISREG(mode):
        raise ImageError(f"not a regular file: {relative!r}")
    return path


@contextlib.contextmanager
def _opened(source: Path | str | bytes | StoredImage, max_pixels: int) -> Iterator[Image.Image]:
    """An image whose header has been read and is within the limits."""
    with contextlib.ExitStack() as stack:
        file: BinaryIO
        if isinstance(source, StoredImage):
            source = source.read_bytes()
        if isinstance(source, bytes):
            file, start = io.BytesIO(source), source[:16]
        else:
            try:
                # A pipe or a device would block or never end.
                if not stat.S_ISREG(os.stat(source).st_mode):
                    raise ImageError("not a regular file")
                file = stack.enter_context(open(source, "rb"))
                start = file.read(16)
            except (OSError, ValueError) as error:
                if isinstance(error, ImageError):
                    raise
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise ImageError(f"cannot be read: {reason}") from None
        if not start:
            raise ImageError("an empty file")
        file.seek(0)
        try:
            image = stack.enter_context(Image.open(file, formats=FORMATS))
        except Image.DecompressionBombError as error:
            raise ImageError(f"too many pixels: {error}") from None
        except MemoryError:
            raise
        except Exception:  # a header made to harm can make a plugin raise anything
            raise ImageError(f"not an image: begins with {start!r}; read are {', '.join(FORMATS)}") from None
        _check_size(image.size, max_pixels)
        yield image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"no pixels: it is {width} x {height}")
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height} is more than {max_pixels}")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) to 8, from the header; 1 where it is missing or malformed."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself, and reports the turned size
    with contextlib.suppress(Exception):  # malformed metadata of a sound picture
        # Not image.getexif(): PNG's would decode the picture to look for metadata behind it.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _TRANSPOSE else 1
    return 1


def _normalize_mode(image: Image.Image) -> Image.Image:
    if image.mode in _KEPT_MODES:
        return image
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(f"mode {image.mode} has no range of brightness: save it with 8 or 16 bits a channel")
    with _reasons(f"mode {image.mode} cannot be converted"):
        return image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGB"))


@contextlib.contextmanager
def _named(source: Path | str | bytes | StoredImage) -> Iterator[None]:
    """Adds the file's name to an ImageError."""
    try:
        yield
    except ImageError as error:
        if isinstance(source, bytes):
            raise
        raise ImageError(f"{error} ({source})") from None


@contextlib.contextmanager
def _reasons(what: str) -> Iterator[None]:
    """Turns whatever a decoder raises on bad bytes into an ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"{what}: {error}") from None
