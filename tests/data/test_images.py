"""Every hostile file has one outcome: a picture, upright and whole, or an ImageError that says why not."""

import collections
import io
import os
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from ega_jax.data.images import MAX_PIXELS, ImageError, image_size, open_image, resolve_path

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 20, 30


def picture(mode="RGB", seed=0, size=(WIDTH, HEIGHT)):
    """A picture without symmetry, so that every wrong turn shows."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode) if mode != "CMYK" else Image.fromarray(noise, "CMYK")


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width, height, data=b""):
    """A PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def frames():
    return [picture("RGB", seed).convert("P") for seed in range(3)]


def animated(format):
    first, *rest = frames()
    return encoded(first, format, save_all=True, append_images=rest, duration=50, loop=0)


SOUND = {
    "RGB PNG": encoded(picture(), "PNG"),
    "RGBA PNG": encoded(picture("RGBA"), "PNG"),
    "grey PNG": encoded(picture("L"), "PNG"),
    "bilevel PNG": encoded(picture("1"), "PNG"),
    "grey and alpha PNG": encoded(picture("LA"), "PNG"),
    "palette PNG": encoded(picture("P"), "PNG"),
    "palette PNG with transparency": encoded(picture("P"), "PNG", transparency=3),
    "RGB PNG with a transparent colour": encoded(picture(), "PNG", transparency=(1, 2, 3)),
    "1 x 1 PNG": encoded(picture(size=(1, 1)), "PNG"),
    "RGB JPEG": encoded(picture(), "JPEG"),
    "progressive JPEG": encoded(picture(), "JPEG", progressive=True),
    "grey JPEG": encoded(picture("L"), "JPEG"),
    "lossless WEBP": encoded(picture("RGBA"), "WEBP", lossless=True),
    "BMP": encoded(picture(), "BMP"),
    "TIFF": encoded(picture(), "TIFF"),
    "deflated TIFF": encoded(picture(), "TIFF", compression="tiff_deflate"),
    "GIF": encoded(picture("P"), "GIF"),
    "PPM": encoded(picture(), "PPM"),
    "JPEG with bytes after its end": encoded(picture(), "JPEG") + b"PK\x03\x04 a zip file follows" * 9,
}

REFUSED = {
    "empty": (b"", "an empty file"),
    "text": (b"hello, this is a text file that was renamed", "not an image: begins with b'hello"),
    "html": (
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "not an image: begins with b'<!DOCTYPE html",
    ),
    "json": (b'{"error": "rate limit"}', "not an image"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not an image"),
    "zeros": (bytes(4096), "not an image"),
    "eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp/x) (w) file closefile\nshowpage\n",
        "not an image: begins with b'%!PS-Adobe",
    ),
    "pdf": (encoded(picture(), "PDF"), "not an image: begins with b'%PDF"),
    "tga": (encoded(picture(), "TGA"), "not an image"),
    "ico": (encoded(picture(), "ICO", sizes=[(16, 16)]), "not an image"),
    "only a PNG signature": (b"\x89PNG\r\n\x1a\n", "not an image"),
    "PNG without pixels": (png_claiming(10, 10), "corrupt"),
    "PNG of zero width": (png_claiming(0, 10), "no pixels|not an image"),
    "PNG cut in the middle": (SOUND["RGB PNG"][: len(SOUND["RGB PNG"]) // 2], "corrupt"),
    "PNG with a flipped bit": (
        SOUND["RGB PNG"][:200] + bytes([SOUND["RGB PNG"][200] ^ 0x10]) + SOUND["RGB PNG"][201:],
        "corrupt",
    ),
    "JPEG cut in the middle": (SOUND["RGB JPEG"][: len(SOUND["RGB JPEG"]) // 2 + 200], "corrupt.*truncated"),
    "JPEG cut in its header": (SOUND["RGB JPEG"][:30], "not an image|corrupt"),
    "WEBP cut in the middle": (
        SOUND["lossless WEBP"][: len(SOUND["lossless WEBP"]) // 2],
        "corrupt|not an image",
    ),
    "GIF cut in the middle": (SOUND["GIF"][: len(SOUND["GIF"]) - 400], "corrupt.*truncated"),
    "BMP cut in the middle": (SOUND["BMP"][:500], "corrupt.*truncated"),
    "TIFF cut in the middle": (SOUND["TIFF"][:700], "corrupt|not an image"),
    "deflated TIFF cut in the middle": (SOUND["deflated TIFF"][:700], "corrupt|not an image"),
    "PNG bomb of 4 Gpixel": (png_claiming(65535, 65535), "too many pixels"),
    "PNG bomb of 100 Mpixel": (png_claiming(10_000, 10_000), "too many pixels: 10000 x 10000 is more than"),
    "PNG of negative size": (png_claiming(2**31 + 5, 2**31 + 5), "too many pixels|not an image|no pixels"),
    "GIF claiming 65535 x 65535": (b"GIF89a\xff\xff\xff\xff\x00\x00\x00", "too many pixels|not an image"),
    "32-bit integer TIFF": (encoded(Image.new("I", (4, 3), 70000), "TIFF"), "mode I has no range"),
    "float TIFF": (encoded(Image.new("F", (4, 3), 0.5), "TIFF"), "mode F has no range"),
}

ODD = {
    "CMYK JPEG": encoded(picture("CMYK"), "JPEG"),
    "16-bit grey PNG": encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)), "PNG"),
    "16-bit grey TIFF": encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)), "TIFF"),
    **{f"{format} turned by EXIF": encoded(picture(), format, exif=oriented(6)) for format in ("JPEG", "PNG", "WEBP")},
    "JPEG with malformed EXIF": encoded(picture(), "JPEG", exif=b"Exif\0\0garbage"),
    **{f"animated {format}": animated(format) for format in ("GIF", "WEBP", "PNG")},
    "TIFF of several pages": animated("TIFF"),
}

CORPUS = SOUND | ODD | {name: content for name, (content, _) in REFUSED.items()}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_file_decodes_as_pillow_does_and_keeps_its_mode(name, tmp_path):
    path = tmp_path / "picture.txt"  # the content decides, not the name
    path.write_bytes(SOUND[name])
    with Image.open(path) as expected:
        expected.load()
    for source in (path, str(path), SOUND[name]):
        image = open_image(source)
        assert image.mode == expected.mode
        assert image.size == expected.size
        assert image.tobytes() == expected.tobytes()
        assert image.info.get("transparency") == expected.info.get("transparency")
        assert set(image.info) <= {"transparency"}
        assert image.getpalette() == expected.getpalette()
        assert image_size(source) == (image.height, image.width)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_refused_with_its_reason(name, tmp_path):
    content, reason = REFUSED[name]
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"(?s)^({reason})"):
        open_image(content)
    with pytest.raises(ImageError, match=rf"(?s)^({reason}).*picture\.png\)$"):
        open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's remarks on metadata
def test_damaged_bytes_never_raise_anything_but_image_error():
    rng = random.Random(0)
    sound = [*SOUND.values(), animated("GIF"), animated("WEBP"), encoded(picture(), "JPEG", exif=oriented(6))]
    outcomes = collections.Counter()
    for _ in range(1500):
        data = bytearray(rng.choice(sound))
        for _ in range(rng.choice([1, 2, 30])):
            data[int(len(data) * rng.random() ** rng.choice([1, 4]))] = rng.randrange(256)  # often in the header
        try:
            size = image_size(bytes(data), max_pixels=10**6)
            image = open_image(bytes(data), max_pixels=10**6)
        except ImageError:
            outcomes["refused"] += 1
            continue
        assert size == (image.height, image.width)
        assert image.convert("RGB").size == image.size
        outcomes["read"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 200


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "name", ["eps", "html", "empty", "PNG bomb of 4 Gpixel", "PNG bomb of 100 Mpixel", "PNG of zero width"]
)
def test_the_header_alone_is_enough_to_refuse(name):
    with pytest.raises(ImageError, match=REFUSED[name][1]):
        image_size(REFUSED[name][0])


def test_the_size_comes_from_the_header_without_the_pixels():
    assert image_size(png_claiming(4000, 3000)) == (3000, 4000)
    assert image_size(REFUSED["JPEG cut in the middle"][0]) == (HEIGHT, WIDTH)


def test_the_limit_on_pixels_is_a_setting_and_inclusive():
    data = SOUND["RGB PNG"]
    assert open_image(data, max_pixels=HEIGHT * WIDTH).size == (WIDTH, HEIGHT)
    for function in (open_image, image_size):
        for source in (data, picture()):
            with pytest.raises(ImageError, match="30 x 20 is more than 599"):
                function(source, max_pixels=HEIGHT * WIDTH - 1)
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_turned_upright(format, orientation):
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    data = encoded(picture(), format, exif=oriented(orientation), **options)
    with Image.open(io.BytesIO(data)) as file:
        expected = ImageOps.exif_transpose(file)
    image = open_image(data)
    assert image_size(data) == (image.height, image.width) == (expected.height, expected.width)
    assert (image.height > image.width) == (orientation >= 5)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert image.getexif().get(0x0112, 1) == 1  # nobody downstream can turn it twice


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", oriented(99), oriented(0), b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_malformed_orientation_is_ignored(exif):
    data = encoded(picture(), "JPEG", exif=exif)
    assert open_image(data).size == (WIDTH, HEIGHT)
    assert image_size(data) == (HEIGHT, WIDTH)


def test_size_and_picture_agree_when_metadata_stand_behind_the_pixels():
    exif = oriented(6)[6:]  # a PNG chunk has no "Exif" prefix
    sound = SOUND["RGB PNG"]
    data = sound[:-12] + png_chunk(b"eXIf", exif) + sound[-12:]
    image = open_image(data)
    assert image_size(data) == (image.height, image.width)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format):
    data = animated(format)
    with Image.open(io.BytesIO(data)) as file:
        assert file.n_frames == 3
        first = np.asarray(file.convert("RGB"))
        file.seek(2)
        assert (np.asarray(file.convert("RGB")) != first).any()
    image = open_image(data)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), first)
    assert getattr(image, "n_frames", 1) == 1  # a picture, not a file that could still seek


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(format):
    values = np.array([[0, 128, 129, 257], [32768, 65407, 65406, 65535]], np.uint16)
    image = open_image(encoded(Image.fromarray(values), format))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), [[0, 0, 1, 1], [128, 255, 254, 255]])


def test_cmyk_jpeg_becomes_rgb_by_pillows_formula():
    data = encoded(picture("CMYK"), "JPEG", quality=100)
    with Image.open(io.BytesIO(data)) as file:
        assert file.mode == "CMYK"
        expected = np.asarray(file.convert("RGB"))
    image = open_image(data)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), expected)
    white = open_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"))
    assert np.asarray(white).min() >= 250  # no ink is white: a picture read inverted would be black


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "CMYK"])
def test_a_given_picture_in_another_colour_space_becomes_rgb(mode):
    assert open_image(picture().convert(mode)).mode == "RGB"


@pytest.mark.parametrize(("mode", "kept"), [("RGBa", "RGBA"), ("La", "LA")])
def test_premultiplied_alpha_becomes_plain_alpha(mode, kept):
    given = picture(kept).convert(mode)
    assert open_image(given).mode == kept


def test_a_given_picture_is_neither_turned_nor_copied_nor_changed():
    given = Image.open(io.BytesIO(encoded(picture(), "JPEG", exif=oriented(6))))
    image = open_image(given)
    assert image is given
    assert image.size == (WIDTH, HEIGHT)
    assert image_size(given) == (HEIGHT, WIDTH)
    assert given.getexif()[0x0112] == 6


def test_a_given_picture_must_be_whole_too():
    given = Image.open(io.BytesIO(REFUSED["JPEG cut in the middle"][0]))
    with pytest.raises(ImageError, match=r"corrupt.*truncated"):
        open_image(given)
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match="mode F"):
        open_image(Image.new("F", (3, 3)))


def test_truncated_images_cannot_be_let_through_by_another_librarys_switch(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        open_image(REFUSED["JPEG cut in the middle"][0])


def test_no_file_stays_open(tmp_path, recwarn):
    for name, data in {
        "a": animated("GIF"),
        "b": SOUND["RGB JPEG"],
        "c": REFUSED["BMP cut in the middle"][0],
    }.items():
        (tmp_path / name).write_bytes(data)
        before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        try:
            image = open_image(tmp_path / name)
            image.load()
        except ImageError:
            pass
        after = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        assert len(after) == len(before)
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning)]


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, "/dev/zero"):
        with pytest.raises(ImageError, match="not a regular file"):
            open_image(path)
    with pytest.raises(ImageError, match=r"cannot be read: No such file.*missing\.png"):
        image_size(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="cannot be read: embedded null byte"):
        open_image("a\0b.png")


def first_frame(image, content):
    with Image.open(io.BytesIO(content)) as file:
        return file.n_frames == 3 and np.array_equal(np.asarray(image.convert("RGB")), np.asarray(file.convert("RGB")))


OUTCOMES = {
    "read": lambda image, content: True,
    "read, transparency kept": lambda image, content: "transparency" in image.info or image.mode in ("RGBA", "LA"),
    "read as RGB": lambda image, content: image.mode == "RGB" and Image.open(io.BytesIO(content)).mode != "RGB",
    "read as grey of 8 bits": lambda image, content: np.all(np.asarray(image) == round(40_000 / 257)),
    "read upright": lambda image, content: image.size == (HEIGHT, WIDTH),
    "read as it stands": lambda image, content: image.size == (WIDTH, HEIGHT),
    "the first frame is read": first_frame,
}
"""What docs/data.md says of a file, and how it is checked; or it says "refused" and parts of the message."""


def documented(heading):
    """(name, outcome) of each file or path in a table of docs/data.md."""
    table = (ROOT / "docs/data.md").read_text().partition(heading)[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return [(name, outcome) for names, outcome in rows for name in re.findall(r"`([^`]+)`", names)]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
def test_the_page_says_of_every_odd_file_what_happens():
    table = documented("| file | what happens |")
    assert sorted(name for name, _ in table) == sorted(CORPUS)
    assert len(table) >= 40
    for name, outcome in table:
        if outcome in OUTCOMES:
            assert OUTCOMES[outcome](open_image(CORPUS[name]), CORPUS[name]), name
            continue
        assert outcome.startswith("refused: ")
        with pytest.raises(ImageError, match="|".join(re.findall(r"`([^`]+)`", outcome))):
            open_image(CORPUS[name])


def test_the_page_says_of_every_odd_path_what_happens(tree):
    table = documented("| path | what happens |")
    assert len(table) >= 8
    for path, outcome in table:
        with pytest.raises(ImageError, match="|".join(re.findall(r"`([^`]+)`", outcome))):
            resolve_path(tree, path)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(SOUND["RGB PNG"])
    data = tmp_path / "data"
    (data / "images" / "set one").mkdir(parents=True)
    (data / "images" / "a.png").write_bytes(SOUND["RGB PNG"])
    (data / "images" / "set one" / "photo:1 é.png").write_bytes(SOUND["RGB PNG"])
    (data / "images" / "inside.png").symlink_to("a.png")
    (data / "images" / "out.png").symlink_to(tmp_path / "outside" / "secret.png")
    (data / "images" / "out").symlink_to(tmp_path / "outside")
    (data / "images" / "loop.png").symlink_to("loop.png")
    (data / "images" / "dangling.png").symlink_to("nowhere.png")
    (data / "..images.png").write_bytes(SOUND["RGB PNG"])
    return data


@pytest.mark.parametrize(
    "relative",
    ["images/a.png", "./images//a.png", "images/set one/photo:1 é.png", "images/inside.png", "..images.png"],
)
def test_a_path_inside_the_directory_resolves(tree, relative):
    path = resolve_path(tree, relative)
    assert image_size(path) == (HEIGHT, WIDTH)
    assert path.is_relative_to(tree)


@pytest.mark.parametrize(
    ("relative", "reason"),
    [
        ("", "empty path"),
        ("images/\0.png", "NUL byte"),
        ("/etc/passwd", "absolute path"),
        ("\\\\server\\share\\a.png", "absolute path"),
        ("C:\\pictures\\a.png", "absolute path"),
        ("../outside/secret.png", r"with '\.\.'"),
        ("images/../../outside/secret.png", r"with '\.\.'"),
        ("images\\..\\..\\outside\\secret.png", r"with '\.\.'"),
        ("http://example.com/a.png", "URLs are not read"),
        ("s3://bucket/a.png", "URLs are not read"),
        ("file:///etc/passwd", "URLs are not read"),
        ("data:image/png;base64,AAAA", "URLs are not read"),
        ("images/out.png", "a link out of the data directory"),
        ("images/out/secret.png", "a link out of the data directory"),
        ("images/loop.png", "no such image file"),
        ("images/dangling.png", "no such image file"),
        ("images/b.png", "no such image file: 'images/b.png'"),
        ("images/a.png/b.png", "no such image file"),
        ("images", "not a regular file"),
        (".", "not a regular file"),
        ("images/" + "a" * 5000, "no such image file"),
    ],
)
def test_any_other_path_is_refused(tree, relative, reason):
    with pytest.raises(ImageError, match=reason):
        resolve_path(tree, relative)


def test_the_directory_itself_may_be_a_link(tree, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    assert resolve_path(tmp_path / "link", "images/a.png").is_file()
