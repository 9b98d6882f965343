"""Prepared data is the data it was made of: same rows, same pictures, same bytes however it was written."""

import hashlib
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ega_jax.data import processor as processor_module
from ega_jax.data.buckets import Buckets
from ega_jax.data.image_files import ImageFiles
from ega_jax.data.images import MissingImageError, image_size, open_image
from ega_jax.data.index import index_subset
from ega_jax.data.index_files import indexed
from ega_jax.data.mmeb import find_subsets, read_eval, read_train
from ega_jax.data.pipeline import TrainingBatches
from ega_jax.data.prepared import tf_example
from ega_jax.data.prepared.read import PreparedTrainSubset
from ega_jax.data.prepared.records import opened
from ega_jax.data.prepared.write import prepare
from ega_jax.data.processor import Processor
from ega_jax.data.records import BadRecordError, Side
from ega_jax.data.tokenizer import train_tokenizer
from ega_jax.errors import BadInputError
from ega_jax.evaluation.details import item
from ega_jax.evaluation.report.gallery import thumbnail
from ega_jax.models import PRESETS

from ...colours import write_colours
from ...micro import config

TOKEN = "<|image_1|>"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = write_colours(tmp_path_factory.mktemp("source") / "data", rows=24)
    lines = (directory / "Match" / "original.jsonl").read_text().splitlines()
    row = json.loads(lines[5])
    row["pos_text"] = [row["pos_text"], "the same colour"]
    row["pos_image_path"] = [row["pos_image_path"], ""]
    lines[5] = json.dumps(row)
    (directory / "Match" / "original.jsonl").write_text("\n".join(lines) + "\n")
    return directory


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared") / "data"
    prepare(source, directory, rows_per_shard=7)
    return directory


@pytest.fixture(scope="module")
def processor(source):
    texts = [record.query.text for record in read_train(source, "Find")]
    return Processor(PRESETS["micro"], train_tokenizer(texts, 280), max_tokens=config.data.token_buckets[-1])


def contents(side):
    return side.text, [np.asarray(open_image(image)).tobytes() for image in side.images]


def files(directory):
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".plan"
    }


def test_training_rows_are_those_of_the_source(source, prepared):
    assert find_subsets(prepared, "train") == find_subsets(source, "train")
    for info in find_subsets(source, "train"):
        ours, theirs = read_train(source, info.name), read_train(prepared, info.name)
        assert isinstance(theirs, PreparedTrainSubset)
        assert theirs.info == info
        assert len(theirs) == len(ours) == 24
        for row in range(24):
            one, other = ours[row], theirs[row]
            assert contents(one.query) == contents(other.query)
            assert list(map(contents, one.positives)) == list(map(contents, other.positives))
            assert list(map(contents, one.negatives)) == list(map(contents, other.negatives))
            for a, b in zip(one.positive.images, other.positive.images, strict=True):
                assert image_size(a) == image_size(b) == open_image(b).size[::-1]


def test_evaluation_rows_are_those_of_the_source(source, prepared):
    for split in ("validation", "test"):
        assert find_subsets(prepared, split) == find_subsets(source, split)
        for info in find_subsets(source, split):
            ours, theirs = read_eval(source, info.name, split), read_eval(prepared, info.name, split)
            assert theirs.info == info
            for name in ("queries", "targets"):
                assert [*map(contents, getattr(ours, name))] == [*map(contents, getattr(theirs, name))]
            for a, b in zip(ours.candidates, theirs.candidates, strict=True):
                assert b.dtype == np.int32
                np.testing.assert_array_equal(a, b)


def test_random_access_choices_locations_and_pickling(prepared):
    subset = read_train(prepared, "Match")
    some = subset.take(np.array([23, 3, 8]))
    for copy in (some, pickle.loads(pickle.dumps(some))):
        assert [copy[row] for row in range(3)] == [subset[23], subset[3], subset[8]]
        assert copy[-1] == subset[8]
        assert copy.take(np.array([1]))[0] == subset[3]
        assert copy.location(0) == (prepared / "mmeb-train-Match.array_record-00003-of-00004", 2)
        for row in (3, -4):
            with pytest.raises(IndexError, match="of 3 of Match"):
                copy[row]
    image = subset[0].query.images[0]
    assert pickle.loads(pickle.dumps(image)) == image
    assert type(image).named(str(image)).read_bytes() == image.read_bytes()


def test_equal_pictures_are_one_item_whatever_their_names(tmp_path, processor):
    source = write_colours(tmp_path / "data", rows=8)
    rows = [json.loads(line) for line in (source / "Find" / "original.jsonl").read_text().splitlines()]
    shutil.copy(source / rows[0]["pos_image_path"], source / "images" / "copy.png")
    rows[1]["pos_image_path"] = "images/copy.png"
    (source / "Find" / "original.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(source, tmp_path / "prepared", subsets=["Find"])
    items = index_subset(read_train(tmp_path / "prepared", "Find"), processor).positives.item
    assert items[0] == items[1]
    assert len(set(items.tolist())) == 7


def test_tfds_reads_it_as_an_ordinary_data_source(source, prepared):
    builder = tfds.builder_from_directory(prepared)
    sources = builder.as_data_source()
    assert set(sources) == {
        f"{split}-{name}"
        for split in ("train", "validation", "validation_candidates", "test", "test_candidates")
        for name in ("Find", "Match", "Name")
    }
    assert builder.info.splits["train-Match"].num_examples == 24
    rows, records = sources["train-Match"], read_train(source, "Match")
    for number in (0, 5, 23):
        row, record = rows[number], records[number]
        assert row["query"]["text"].decode() == record.query.text
        assert row["query"]["image"] == record.query.images[0].read_bytes()
        assert row["query"]["path"].decode() == record.query.images[0].relative_to(source).as_posix()
        assert [text.decode() for text in row["targets"]["text"]] == [side.text for side in record.positives]
        assert [bool(image) for image in row["negatives"]["image"]] == [True] * len(record.negatives)
        assert row["source"].decode() == f"Match/original.jsonl#{number}"
    query = sources["test-Find"][1]
    pool = sources["test_candidates-Find"]
    gold = pool[int(query["candidates"][0])]["targets"]
    subset = read_eval(source, "Find")
    assert gold["text"][0].decode() == subset.targets[subset.candidates[1][0]].text
    assert gold["image"][0] == subset.targets[subset.candidates[1][0]].images[0].read_bytes()


def test_messages_come_back_and_are_ordered():
    features = {"b": [b"x" * 300, b""], "a": [0, 1, 127, 128, 2**40], "none": [], "c/d": ["é".encode()]}
    message = tf_example.encode(features)
    assert tf_example.decode(message) == features
    assert tf_example.encode(dict(reversed(features.items()))) == message
    for cut in (1, 5, 100, len(message) - 1):
        with pytest.raises(ValueError, match="ends too early"):
            tf_example.decode(message[:cut])


def test_a_killed_preparation_goes_on_and_ends_in_equal_bytes(source, prepared, tmp_path, monkeypatch):
    from ega_jax.data.prepared import write

    done, write_shard = [], write.write_shard

    def dies(shard, *rest):
        if len(done) == 5:
            shard.with_name(f".{shard.name}.123").write_bytes(b"half")
            raise KeyboardInterrupt
        done.append(shard.name)
        return write_shard(shard, *rest)

    directory = tmp_path / "prepared"
    monkeypatch.setattr(write, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, directory, rows_per_shard=7)
    assert find_subsets(directory, "train") == []  # not taken for whole
    before = {name: (directory / name).stat().st_mtime_ns for name in done}
    told = []
    monkeypatch.setattr(write, "write_shard", write_shard)
    prepare(source, directory, rows_per_shard=7, workers=2, progress=lambda *told_: told.append(told_))
    assert before == {name: (directory / name).stat().st_mtime_ns for name in done}
    assert files(directory) == files(prepared), "nothing of a dead process is left either"
    writing = [(count, total) for what, count, total in told if what == "writing rows"]
    assert 0 < writing[0][0] < writing[-1][0] == writing[-1][1]
    prepare(source, directory, rows_per_shard=7)  # nothing to do
    with pytest.raises(BadInputError, match="holds another preparation"):
        prepare(source, directory, rows_per_shard=8)


def test_one_that_a_bad_row_stopped_may_begin_again_with_other_settings(tmp_path):
    source = write_colours(tmp_path / "data", rows=8)
    file = source / "Find" / "original.jsonl"
    file.write_text(file.read_text() + '{"qry": "", "qry_image_path": "", "pos_text": "", "pos_image_path": ""}\n')
    with pytest.raises(BadRecordError, match=r"original\.jsonl, row 8"):
        prepare(source, tmp_path / "prepared", splits=["train"])
    manifest = prepare(source, tmp_path / "prepared", splits=["train"], on_bad_record="skip")
    assert sum(sum(part.shards) for part in manifest.parts) == 24


def test_a_picture_that_does_not_decode_stops_or_is_left_out(tmp_path, prepared):
    source = write_colours(tmp_path / "data", rows=8)
    rows = [json.loads(line) for line in (source / "Find" / "original.jsonl").read_text().splitlines()]
    broken = source / rows[3]["pos_image_path"]
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(
        BadRecordError, match=rf"original\.jsonl, row 3, field 'pos_image_path': corrupt.*{broken.name}"
    ):
        prepare(source, tmp_path / "one", splits=["train"], subsets=["Find"])
    assert not list((tmp_path / "one").glob("*.array_record*"))
    manifest = prepare(
        source, tmp_path / "two", splits=["train"], subsets=["Find"], on_bad_record="skip", rows_per_shard=4
    )
    (part,) = manifest.parts
    assert (part.shards, part.skipped) == ((3, 4), {"pos_image_path: corrupt": 1})
    subset = read_train(tmp_path / "two", "Find")
    assert [subset[row].query.text for row in range(7)] == [row["qry"] for row in rows[:3] + rows[4:]]
    assert (subset.skipped.rows, subset.skipped.skipped) == (8, 1)
    assert "left out 1 of 8 rows" in str(subset.skipped)


def test_pictures_in_a_zip_are_prepared_without_unpacking(source, prepared, tmp_path):
    packed = tmp_path / "data"
    shutil.copytree(source, packed, ignore=shutil.ignore_patterns("images"))
    with zipfile.ZipFile(packed / "images.zip", "w") as archive:
        for path in (source / "images").iterdir():
            archive.write(path, f"images/{path.name}")
    prepare(packed, tmp_path / "prepared", rows_per_shard=7)
    assert files(tmp_path / "prepared") == files(prepared)


def test_the_report_shows_pictures_wherever_they_lie(source, prepared, tmp_path):
    path = read_train(source, "Match")[2].query.images[0]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(path, "images/a.zip#b.png")
    zipped = ImageFiles(tmp_path).find("images/a.zip#b.png")
    pictures = [path, zipped, read_train(prepared, "Match")[2].query.images[0]]
    shown = [thumbnail(item(Side(TOKEN, (picture,)))["images"][0]) for picture in pictures]
    assert shown[0] is not None
    assert len(set(shown)) == 1
    assert thumbnail(f"{tmp_path}/gone.array_record-00000-of-00001#0/query/0") is None


def test_refusals(source, prepared, tmp_path, monkeypatch):
    with pytest.raises(BadInputError, match="is prepared already"):
        prepare(prepared, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(BadInputError, match="is not empty"):
        prepare(source, tmp_path / "b")
    with pytest.raises(BadInputError, match="did you mean 'Match'"):
        prepare(source, tmp_path / "c", subsets=["Macth"])
    with pytest.raises(BadInputError, match=r"no train rows of subset 'Nam'.*did you mean 'Name'"):
        read_train(prepared, "Nam")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(BadInputError, match=r"GB are to be written and 0\.0 GB are free"):
        prepare(source, tmp_path / "d")


def test_damage_is_met_with_an_error_that_names_the_file(prepared, tmp_path):
    directory = tmp_path / "data"
    shutil.copytree(prepared, directory)
    shard = directory / "mmeb-train-Find.array_record-00001-of-00004"
    content = bytearray(shard.read_bytes())
    middle = content.index(b"Find/original.jsonl")
    content[middle] ^= 1
    shard.write_bytes(content)
    subset = read_train(directory, "Find")
    outcomes = []
    for row in range(24):
        try:
            outcomes.append(bool(open_image(subset[row].positive.images[0])))
        except ValueError as error:
            outcomes.append(str(error))
    bad = [outcome for outcome in outcomes if outcome is not True]
    assert bad
    assert all("cannot be read from its record" in message and shard.name in message for message in bad)
    for left in (None, b"", bytes(content[:3000])):
        opened.cache_clear()
        shard.unlink() if left is None else shard.write_bytes(left)
        with pytest.raises(BadInputError, match=r"00001-of-00004: (missing or not whole|not the 7 rows)"):
            read_train(directory, "Find")
    (directory / "prepared.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"prepared\.json: cannot be read"):
        find_subsets(directory, "train")


def test_the_index_is_kept_and_read_without_measuring(source, prepared, processor, monkeypatch):
    raw = index_subset(read_train(source, "Match"), processor)
    subset = read_train(prepared, "Match")
    made = indexed(subset, processor)
    chosen = np.array([20, 5, 6])

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(processor_module.prompts, "text_lengths", never)
    monkeypatch.setattr(processor_module.images, "open_image", never)
    kept = indexed(read_train(prepared, "Match"), processor)
    part = indexed(subset.take(chosen), processor)
    for name in ("tokens", "units"):
        for side in ("queries", "positives", "negatives"):
            expected = getattr(getattr(raw, side), name)
            np.testing.assert_array_equal(getattr(getattr(made, side), name), expected)
            np.testing.assert_array_equal(getattr(getattr(kept, side), name), expected)
    np.testing.assert_array_equal(part.queries.tokens, raw.queries.tokens[chosen])
    np.testing.assert_array_equal(np.diff(part.first_positive), [1, 2, 1])
    np.testing.assert_array_equal(part.positives.tokens[1:3], raw.positives.tokens[5:7])
    other = Processor(PRESETS["micro"], train_tokenizer(["xy"], 270), max_tokens=64)
    assert other.fingerprint != processor.fingerprint
    with pytest.raises(AssertionError, match="measured again"):
        indexed(subset, other)
    (kept_file,) = (prepared / "index" / processor.fingerprint).glob("train-Match*")
    kept_file.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="measured again"):
        indexed(subset, processor)


def test_batches_are_those_of_the_source(source, prepared, processor):
    buckets = Buckets(config.data.token_buckets, config.data.image_buckets)

    def batches(directory):
        subsets = [read_train(directory, info.name) for info in find_subsets(directory, "train")]
        return TrainingBatches(subsets, processor, buckets, steps=6, batch_size=16, sub_batch_size=8, seed=1)

    ours, theirs = batches(source), batches(prepared)
    for step in range(6):
        one, other = ours[step], theirs[step]
        assert one.keys() == other.keys()
        for side in ("queries", "targets"):
            for name, array in one[side].items():
                np.testing.assert_array_equal(array, other[side][name])
        for name in ("query_ids", "positives", "target_mask"):
            np.testing.assert_array_equal(one[name], other[name])


def test_missing_pictures_are_known_before_anything_is_written(tmp_path):
    source = write_colours(tmp_path / "data", rows=8)
    shutil.rmtree(source / "images")
    (source / "images").mkdir()
    with pytest.raises(BadRecordError, match="no such image file") as caught:
        prepare(source, tmp_path / "prepared")
    assert not isinstance(caught.value, MissingImageError)
