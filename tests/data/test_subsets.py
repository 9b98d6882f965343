"""What subsets a directory holds: their order, their places in the tables, and downloads that are not whole."""

import json

import pytest

from ega_jax.data.mmeb import SUBSETS, find_subsets, read_eval, read_train
from ega_jax.data.records import SubsetInfo
from ega_jax.errors import BadInputError

from .mmeb_rows import GOOD, write


def test_mmeb_has_36_subsets_20_in_and_16_out_of_distribution():
    assert len(SUBSETS) == 36
    distributions = [info.distribution for info in SUBSETS.values()]
    assert (distributions.count("in"), distributions.count("out")) == (20, 16)
    metas = [info.meta_task for info in SUBSETS.values()]
    counts = {meta: metas.count(meta) for meta in metas}
    assert counts == {"classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4}
    assert all(info.name == name for name, info in SUBSETS.items())


@pytest.mark.parametrize(
    ("name", "meta_task", "distribution"),
    [
        ("ImageNet-1K", "classification", "in"),
        ("Country211", "classification", "out"),
        ("Visual7W", "vqa", "in"),
        ("TextVQA", "vqa", "out"),
        ("WebQA", "retrieval", "in"),
        ("Wiki-SS-NQ", "retrieval", "out"),
        ("MSCOCO", "grounding", "in"),
        ("Visual7W-Pointing", "grounding", "out"),
    ],
)
def test_places_in_the_tables(name, meta_task, distribution):
    assert SUBSETS[name] == SubsetInfo(name, meta_task, distribution)


def test_found_in_the_order_of_the_tables_then_by_name(data, suffix):
    for name in ("zebra", "RefCOCO", "apes", "OK-VQA", "VOC2007"):
        write(data, name, "original", [GOOD], suffix)
    write(data, "GQA", "test", [("q", "", ["a"], [""])], suffix)
    (data / ".hidden").mkdir()
    (data / "notes.txt").write_text("not a directory")
    found = find_subsets(data, "train")
    assert [info.name for info in found] == ["VOC2007", "OK-VQA", "RefCOCO", "apes", "zebra"]
    assert found[3] == SubsetInfo("apes", "other", "in")
    assert [info.name for info in find_subsets(data, "test")] == ["GQA"]
    assert find_subsets(data, "validation") == []


def test_imagenet_is_one_subset_under_its_two_names(data):
    write(data, "ImageNet_1K", "original", [GOOD])
    write(data, "ImageNet-1K", "test", [("q", "", ["a"], [""])])
    assert find_subsets(data, "train") == find_subsets(data, "test") == [SUBSETS["ImageNet-1K"]]
    for name in ("ImageNet_1K", "ImageNet-1K"):
        assert len(read_train(data, name)) == 1
        assert read_eval(data, name).info == SUBSETS["ImageNet-1K"]


def test_metadata_override_what_is_known(data):
    metadata = {
        "birds": {"meta_task": "retrieval", "distribution": "out", "description": "calls"},
        "VOC2007": {"distribution": "out"},
        "absent": {"meta_task": "vqa"},
    }
    (data / "subsets.json").write_text(json.dumps(metadata))
    for name in ("birds", "VOC2007"):
        write(data, name, "train", [GOOD])
    assert find_subsets(data, "train") == [
        SubsetInfo("VOC2007", "classification", "out"),
        SubsetInfo("birds", "retrieval", "out"),
    ]
    assert read_train(data, "birds").info.meta_task == "retrieval"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object"),
        ('{"a": 1}', "entry of 'a' is not an object"),
        ('{"a": {"metatask": "vqa"}}', "unknown key 'metatask' of 'a' .did you mean 'meta_task'"),
        ('{"a": {"meta_task": "VQA"}}', "meta_task of 'a' is 'VQA', expected one of classification, vqa"),
        ('{"a": {"distribution": ["in"]}}', "expected one of in, out"),
    ],
)
def test_malformed_metadata_are_refused(data, content, message):
    write(data, "a", "train", [GOOD])
    (data / "subsets.json").write_text(content)
    with pytest.raises(BadInputError, match=rf"subsets\.json: .*{message}"):
        find_subsets(data, "train")


def test_an_unknown_subset_is_met_with_the_nearest_one(data):
    write(data, "VOC2007", "original", [GOOD])
    with pytest.raises(BadInputError, match=r"no train rows of subset 'VOC2008'.*did you mean 'VOC2007'"):
        read_train(data, "VOC2008")
    with pytest.raises(BadInputError, match=r"no test rows of subset 'VOC2007'.*no subset at all"):
        read_eval(data, "VOC2007")
    with pytest.raises(BadInputError, match="no train rows"):
        read_train(data, "../VOC2007")


def test_an_unknown_split_is_refused(data):
    write(data, "GQA", "original", [GOOD])
    with pytest.raises(ValueError, match="one of train, diverse_instruction, validation, test, got 'dev'"):
        find_subsets(data, "dev")


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="cannot list the data directory"):
        find_subsets(tmp_path / "nowhere", "train")


def test_an_incomplete_download_is_refused(data):
    file = write(data, "GQA", "original", [GOOD])
    file.rename(file.with_name("original-00000-of-00003.parquet"))
    with pytest.raises(BadInputError, match=r"shard 1 of 3 is missing \(2 in all\)"):
        read_train(data, "GQA")


def test_rows_that_are_there_twice_are_refused(data):
    write(data, "GQA", "original", [GOOD])
    write(data, "GQA", "original", [GOOD], "jsonl")
    with pytest.raises(BadInputError, match="there twice"):
        read_train(data, "GQA")
    write(data, "EDIS", "original", [GOOD])
    write(data, "EDIS", "train", [GOOD])
    with pytest.raises(BadInputError, match=r"there twice.*original\*\.parquet and .*train\*\.parquet"):
        read_train(data, "EDIS")


def test_what_an_archiver_left_is_not_read(data):
    write(data, "GQA", "original", [GOOD])
    (data / "GQA" / "._original-00000-of-00001.parquet").write_bytes(b"Mac OS X")
    assert len(read_train(data, "GQA")) == 1
