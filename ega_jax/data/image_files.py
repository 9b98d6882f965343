"""Where the image paths of a data directory lead: to files, also in a folder too deep, and into zips as downloaded.

Nothing is unpacked: a picture in a zip is read where it lies, so a path in an archive can harm nobody and a training
set of a million pictures needs no second copy.
"""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ega_jax.data.images import ImageError, MissingImageError, StoredImage, resolve_path
from ega_jax.errors import BadInputError

_IMAGES = "images"  # the folder that published paths begin with
_LARGEST = 256 << 20  # bytes of one picture in a zip: a bomb unpacks to more


class ZippedImage(StoredImage):
    """A picture in a zip.

    Attributes:
      archive: the zip.
      member: its path in there.
    """

    __slots__ = ("archive", "member")

    def __init__(self, archive: Path, member: str) -> None:
        self.archive, self.member = archive, member

    def read_bytes(self) -> bytes:
        try:
            zipped = _opened(self.archive)
            if self.file_size > _LARGEST:
                raise ImageError(f"unpacks to more than {_LARGEST >> 20} MiB")
            return zipped.read(self.member)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, KeyError) as error:
            raise ImageError(f"cannot be unpacked: {error}") from None

    @property
    def file_size(self) -> int:
        """Bytes of the encoded picture."""
        return _opened(self.archive).getinfo(self.member).file_size

    def __str__(self) -> str:
        return f"{self.archive}#{self.member}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZippedImage) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"ZippedImage({str(self)!r})"

    def __reduce__(self) -> tuple:
        return ZippedImage, (self.archive, self.member)


class ImageFiles:
    """The pictures of a data directory, by the relative paths that its rows hold.

    A path is looked for in the directory, then in folders of it that hold an `images` folder of their own (an archive
    unpacked one level too deep), then in the zips that lie in it or in one of its folders. There, what stands before
    the last folder `images` does not count, a zip named like a subset may leave that folder out, and what some
    archivers add (`__MACOSX/`, `._...`) is not seen.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def __reduce__(self) -> tuple:
        return ImageFiles, (self.directory,)

    def find(self, relative: str) -> Path | ZippedImage:
        """The picture of a path that nobody has checked.

        Raises:
          ImageError: as `resolve_path`, or it is in two archives with different content.
          BadInputError: a zip of the directory is damaged.
        """
        try:
            return resolve_path(self.directory, relative, self._store)
        except MissingImageError:
            for root in self._nested:
                try:
                    return resolve_path(root, relative, self._store)
                except MissingImageError:
                    continue
            if self._zips:
                return self._zipped(relative)
            raise

    def source(self, relative: str) -> Path | ZippedImage:
        """The picture of a path that `find` has found; cheaper where all pictures are plain files."""
        return self.find(relative) if self._nested or self._zips else self.directory / relative

    @functools.cached_property
    def _store(self) -> Path | None:
        """In the hub's cache, files are links from snapshots/REVISION/ to blobs/."""
        home = self.directory.absolute().parent
        return home.parent / "blobs" if home.name == "snapshots" else None

    @functools.cached_property
    def _nested(self) -> list[Path]:
        outer = [home for home in _folders(self.directory) if home.name != _IMAGES]
        inner = [home for folder in outer for home in _folders(folder)]
        return [home for home in (*outer, *inner) if (home / _IMAGES).is_dir()]

    @functools.cached_property
    def _zips(self) -> list[Path]:
        homes = [self.directory, *_folders(self.directory)]
        return [file for home in homes for file in sorted(home.glob("*.zip")) if file.name[0] != "."]

    @functools.cached_property
    def _members(self) -> dict[str, _Member | None]:
        """What each path in the zips leads to; None where two zips disagree."""
        found: dict[str, _Member | None] = {}
        for archive in self._zips:
            for info in _opened(archive).infolist():
                parts = PurePosixPath(info.filename).parts
                if info.is_dir() or "__MACOSX" in parts or not parts or parts[-1].startswith("._"):
                    continue
                parts = _below_images(parts)
                member = _Member(archive, info.filename, info.CRC)
                for key in {"/".join(parts), "/".join((archive.stem, *parts))}:
                    known = found.setdefault(key, member)
                    if known is not None and known.crc != info.CRC:
                        found[key] = None
        return found

    def _zipped(self, relative: str) -> ZippedImage:
        key = "/".join(_below_images(PurePosixPath(relative).parts))
        if key not in self._members:
            raise MissingImageError(f"no such image file: {relative!r} (neither a file nor in a zip)")
        member = self._members[key]
        if member is None:
            raise ImageError(f"in two zips with different content: {relative!r}")
        return ZippedImage(member.archive, member.name)


class _Member(NamedTuple):
    archive: Path
    name: str
    crc: int


def _below_images(parts: tuple[str, ...]) -> tuple[str, ...]:
    """What follows the last folder `images`, or all."""
    folders = parts[:-1]
    return parts[len(folders) - folders[::-1].index(_IMAGES) :] if _IMAGES in folders else parts


def _folders(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from sorted(path for path in directory.iterdir() if path.is_dir() and path.name[0] != ".")


@functools.lru_cache(maxsize=64)
def _opened(archive: Path) -> zipfile.ZipFile:
    """A zip that stays open: its list of members takes a second to read. Reading members is safe on threads."""
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInputError(f"{archive}: not a whole zip, perhaps an incomplete download ({error})") from None
