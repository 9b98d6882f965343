"""Paths of rows lead to files, to files one folder too deep, into zips as downloaded, and nowhere else."""

import pickle
import zipfile

import pytest
from PIL import Image

from ega_jax.data.directory import data_directory
from ega_jax.data.image_files import ImageFiles, ZippedImage
from ega_jax.data.images import ImageError, MissingImageError, image_size, open_image
from ega_jax.data.mmeb import read_train
from ega_jax.errors import BadInputError

from .mmeb_rows import TOKEN, write


def png(tmp_path, colour):
    path = tmp_path / f"{colour}.png"
    Image.new("RGB", (7, 5), colour).save(path)
    return path.read_bytes()


def colour(source):
    return open_image(source).convert("RGB").getpixel((0, 0))


def archive(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return path


@pytest.fixture
def home(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("place", ["images/A/1.png", "MMEB-eval/images/A/1.png", "MMEB-eval/MMEB/images/A/1.png"])
def test_a_folder_too_deep_is_found(home, tmp_path, place):
    (home / place).parent.mkdir(parents=True)
    (home / place).write_bytes(png(tmp_path, "red"))
    files = ImageFiles(home)
    assert files.find("images/A/1.png") == files.source("images/A/1.png") == home / place
    with pytest.raises(MissingImageError, match=r"no such image file: 'images/A/2\.png'"):
        files.find("images/A/2.png")


@pytest.mark.parametrize(
    ("zipped", "member"),
    [
        ("images.zip", "images/A/Train/1.png"),
        ("images.zip", "A/Train/1.png"),
        ("images.zip", "MMEB-eval/images/A/Train/1.png"),
        ("images_zip/A.zip", "A/Train/1.png"),
        ("images_zip/A.zip", "Train/1.png"),
        ("images_zip/A.zip", "images/A/Train/1.png"),
    ],
)
def test_a_zip_as_downloaded_is_read_where_it_lies(home, tmp_path, zipped, member):
    junk = member.rpartition("/")[0] + "/._1.png"
    path = archive(
        home / zipped,
        {junk: b"Mac OS X", "__MACOSX/" + member: b"Mac OS X", member: png(tmp_path, "red"), "readme.txt": b"hello"},
    )
    (home / zipped).with_name("._" + path.name).write_bytes(b"Mac OS X")
    files = pickle.loads(pickle.dumps(ImageFiles(home)))
    found = files.find("images/A/Train/1.png")
    assert found == files.source("images/A/Train/1.png") == ZippedImage(path, member)
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({found, files.find("images/A/Train/1.png")}) == 1
    assert str(found) == f"{path}#{member}"
    assert image_size(found) == (5, 7)
    assert colour(found) == (255, 0, 0)
    for missing in ("images/A/Train/._1.png", "images/B/Train/1.png", "images/A/Train/2.png"):
        with pytest.raises(MissingImageError, match="neither a file nor in a zip"):
            files.find(missing)


def test_a_file_comes_before_a_zip_and_a_zip_may_repeat_another(home, tmp_path):
    red, blue = png(tmp_path, "red"), png(tmp_path, "blue")
    archive(home / "images.zip", {"images/A/1.png": blue, "images/A/2.png": red, "images/A/3.png": red})
    archive(home / "more.zip", {"A/2.png": red, "A/3.png": blue})
    (home / "images" / "A").mkdir(parents=True)
    (home / "images" / "A" / "1.png").write_bytes(red)
    files = ImageFiles(home)
    assert files.find("images/A/1.png") == home / "images/A/1.png"
    assert colour(files.find("images/A/2.png")) == (255, 0, 0)
    with pytest.raises(ImageError, match=r"in two zips with different content: 'images/A/3\.png'"):
        files.find("images/A/3.png")


def test_what_is_wrong_with_a_zip_is_said(home, tmp_path):
    content = png(tmp_path, "red") + bytes(3000)
    path = archive(home / "images.zip", {"images/1.png": content})
    damaged = bytearray(path.read_bytes())
    damaged[60] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match=r"^cannot be unpacked: .*images\.zip#images/1\.png\)$"):
        open_image(ImageFiles(home).find("images/1.png"))
    cut = home / "cut.zip"
    cut.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInputError, match=r"cut\.zip: not a whole zip, perhaps an incomplete download"):
        ImageFiles(home).find("images/1.png")


def test_a_picture_that_unpacks_to_gigabytes_is_refused(home, monkeypatch):
    from ega_jax.data import image_files

    monkeypatch.setattr(image_files, "_LARGEST", 1 << 20)
    archive(home / "images.zip", {"images/bomb.png": bytes(2 << 20)})
    with pytest.raises(ImageError, match="unpacks to more than 1 MiB"):
        open_image(ImageFiles(home).find("images/bomb.png"))


@pytest.mark.parametrize("path", ["../1.png", "/etc/passwd", "https://x.org/1.png", "images/../../1.png"])
def test_no_path_leaves_the_directory_by_a_zip(home, path):
    archive(home / "images.zip", {"../1.png": b"x", "/etc/passwd": b"x", "images/../../1.png": b"x"})
    with pytest.raises(ImageError, match=r"absolute path|'\.\.'|URLs"):
        ImageFiles(home).find(path)


def test_rows_are_read_with_pictures_from_a_zip(home, tmp_path):
    write(home, "VisDial", "original", [(f"{TOKEN}\nq", "images/VisDial/1.png", "p", "")] * 2)
    path = archive(home / "images_zip" / "VisDial.zip", {"VisDial/1.png": png(tmp_path, "blue")})
    subset = pickle.loads(pickle.dumps(read_train(home, "VisDial", verify_images="decode")))
    assert subset[1].query.images == (ZippedImage(path, "VisDial/1.png"),)


def hub_copy(root, tmp_path, revisions=("abc",)):
    """A repository as the hub's cache lays it out: every file is a link into blobs/."""
    repository = root / "datasets--TIGER-Lab--MMEB-train"
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "11").write_bytes(png(tmp_path, "red"))
    table = write(tmp_path, "GQA", "original", [(f"{TOKEN}\nq", "images/1.png", "p", "")])
    table.rename(blobs / "22")
    (tmp_path / "secret.png").write_bytes(png(tmp_path, "blue"))
    for revision in revisions:
        snapshot = repository / "snapshots" / revision
        for folder in ("images", "GQA"):
            (snapshot / folder).mkdir(parents=True)
        (snapshot / "images" / "1.png").symlink_to("../../../blobs/11")
        (snapshot / "images" / "out.png").symlink_to(tmp_path / "secret.png")
        (snapshot / "GQA" / "original-00000-of-00001.parquet").symlink_to("../../../blobs/22")
    return repository


def test_the_hubs_cache_is_read_as_it_lies(home, tmp_path):
    repository = hub_copy(home, tmp_path, ("abc", "def"))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("def\n")
    snapshot = repository / "snapshots" / "def"
    assert data_directory(str(repository)) == snapshot
    record = read_train(data_directory(str(repository)), "GQA", verify_images="decode")[0]
    assert colour(record.query.images[0]) == (255, 0, 0)
    with pytest.raises(ImageError, match="a link out of the data directory"):
        ImageFiles(snapshot).find("images/out.png")


def test_which_snapshot_is_meant_must_be_plain(home, tmp_path):
    repository = hub_copy(home, tmp_path, ("abc", "def"))
    with pytest.raises(BadInputError, match="which of its snapshots"):
        data_directory(str(repository))


def test_a_repository_is_downloaded_by_its_name(home, tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, **options):
        asked.append((repository, options))
        return str(home)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert data_directory("hf://datasets/TIGER-Lab/MMEB-train@abc") == home
    assert asked == [("TIGER-Lab/MMEB-train", {"repo_type": "dataset", "revision": "abc"})]


@pytest.mark.parametrize("name", ["TIGER-Lab/MMEB-train", "not a name"])
def test_a_download_without_a_network_is_one_clear_error(name, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BadInputError, match=rf"hf://datasets/{name} cannot be downloaded.*give the directory of a local"
    ):
        data_directory(f"hf://datasets/{name}")
