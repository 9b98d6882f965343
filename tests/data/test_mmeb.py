"""Readers of MMEB's layout: good rows come back to the character, bad ones by file, row and column."""

import collections
import json
import pickle
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ega_jax.data.mmeb import SUBSETS, find_subsets, read_eval, read_train
from ega_jax.data.records import BadRecordError, Side, SubsetInfo, TrainRecord
from ega_jax.errors import BadInputError

TRAIN = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
EVAL = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
TOKEN = "<|image_1|>"


@pytest.fixture
def data(tmp_path):
    """An empty data directory with four images and one truncated one."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (12, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
    whole = (tmp_path / "images" / "0.png").read_bytes()
    (tmp_path / "images" / "cut.png").write_bytes(whole[: len(whole) - 60])
    return tmp_path


@pytest.fixture(params=["parquet", "jsonl"])
def suffix(request):
    return request.param


def write(directory, subset, split, rows, suffix="parquet", names=None):
    """Writes rows, dicts or tuples in the order of the columns, as one shard; returns the file."""
    names = names or (EVAL if split in ("test", "validation") else TRAIN)
    rows = [row if isinstance(row, dict) else dict(zip(names, row, strict=False)) for row in rows]
    file = directory / subset / f"{split}-00000-of-00001.{suffix}"
    file.parent.mkdir(exist_ok=True)
    if suffix == "parquet":
        columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
        pq.write_table(pa.table(columns), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


GOOD = (f"{TOKEN}\nRepresent  it\n", "images/0.png", "a  label ", "")


class TestSubsets:
    def test_mmeb_has_36_subsets_20_in_and_16_out_of_distribution(self):
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
    def test_places_in_the_tables(self, name, meta_task, distribution):
        assert SUBSETS[name] == SubsetInfo(name, meta_task, distribution)

    def test_found_in_the_order_of_the_tables_then_by_name(self, data, suffix):
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

    def test_imagenet_is_one_subset_under_its_two_names(self, data):
        write(data, "ImageNet_1K", "original", [GOOD])
        write(data, "ImageNet-1K", "test", [("q", "", ["a"], [""])])
        assert find_subsets(data, "train") == find_subsets(data, "test") == [SUBSETS["ImageNet-1K"]]
        for name in ("ImageNet_1K", "ImageNet-1K"):
            assert len(read_train(data, name)) == 1
            assert read_eval(data, name).info == SUBSETS["ImageNet-1K"]

    def test_metadata_override_what_is_known(self, data):
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
    def test_malformed_metadata_are_refused(self, data, content, message):
        write(data, "a", "train", [GOOD])
        (data / "subsets.json").write_text(content)
        with pytest.raises(BadInputError, match=rf"subsets\.json: .*{message}"):
            find_subsets(data, "train")

    def test_an_unknown_subset_is_met_with_the_nearest_one(self, data):
        write(data, "VOC2007", "original", [GOOD])
        with pytest.raises(BadInputError, match=r"no train rows of subset 'VOC2008'.*did you mean 'VOC2007'"):
            read_train(data, "VOC2008")
        with pytest.raises(BadInputError, match=r"no test rows of subset 'VOC2007'.*no subset at all"):
            read_eval(data, "VOC2007")
        with pytest.raises(BadInputError, match="no train rows"):
            read_train(data, "../VOC2007")

    def test_an_unknown_split_is_refused(self, data):
        write(data, "GQA", "original", [GOOD])
        with pytest.raises(ValueError, match="one of train, diverse_instruction, validation, test, got 'dev'"):
            find_subsets(data, "dev")

    def test_a_missing_directory_is_refused(self, tmp_path):
        with pytest.raises(BadInputError, match="cannot list the data directory"):
            find_subsets(tmp_path / "nowhere", "train")

    def test_an_incomplete_download_is_refused(self, data):
        file = write(data, "GQA", "original", [GOOD])
        file.rename(file.with_name("original-00000-of-00003.parquet"))
        with pytest.raises(BadInputError, match=r"shard 1 of 3 is missing \(2 in all\)"):
            read_train(data, "GQA")

    def test_rows_that_are_there_twice_are_refused(self, data):
        write(data, "GQA", "original", [GOOD])
        write(data, "GQA", "original", [GOOD], "jsonl")
        with pytest.raises(BadInputError, match="there twice"):
            read_train(data, "GQA")
        write(data, "EDIS", "original", [GOOD])
        write(data, "EDIS", "train", [GOOD])
        with pytest.raises(BadInputError, match=r"there twice.*original\*\.parquet and .*train\*\.parquet"):
            read_train(data, "EDIS")

    def test_what_an_archiver_left_is_not_read(self, data):
        write(data, "GQA", "original", [GOOD])
        (data / "GQA" / "._original-00000-of-00001.parquet").write_bytes(b"Mac OS X")
        assert len(read_train(data, "GQA")) == 1


class TestTrain:
    def test_rows_come_back_to_the_character(self, data, suffix):
        rows = [
            GOOD,
            ("text  only\n", "", f"{TOKEN} Find\n", "images/1.png"),
            ("émigré 的 \U0001f600 \t", "", "<image> <|im_end|>", "", "no", ""),
            (TOKEN, "images/2.png", "x", "", "", "images/3.png"),
        ]
        subset = read_train(data, write(data, "GQA", "original", rows, suffix).parent.name)
        assert len(subset) == 4
        assert [subset[index] for index in range(4)] == [
            TrainRecord(Side(f"{TOKEN}\nRepresent  it\n", (data / "images/0.png",)), Side("a  label ")),
            TrainRecord(Side("text  only\n"), Side(f"{TOKEN} Find\n", (data / "images/1.png",))),
            TrainRecord(Side("émigré 的 \U0001f600 \t"), Side("<image> <|im_end|>"), (Side("no"),)),
            TrainRecord(Side(TOKEN, (data / "images/2.png",)), Side("x"), (Side(TOKEN, (data / "images/3.png",)),)),
        ]
        assert subset.info == SUBSETS["GQA"]
        assert dict(subset.skipped.mended) == {"images without an image token, which got one": 1}

    def test_random_access_locations_and_pickling_over_shards(self, data, suffix):
        first = write(data, "GQA", "original", [(f"q{n}", "", f"p{n}", "") for n in range(300)], suffix)
        first = first.rename(first.with_name(f"original-00000-of-00002.{suffix}"))
        second = write(data, "GQA", "original", [(f"q{n}", "", f"p{n}", "") for n in range(300, 307)], suffix)
        second = second.rename(second.with_name(f"original-00001-of-00002.{suffix}"))
        subset = read_train(data, "GQA")
        for copy in (subset, pickle.loads(pickle.dumps(subset))):
            assert len(copy) == 307
            assert copy[0].query.text == "q0"
            assert copy[np.int64(302)].positive.text == "p302"
            assert copy[-1] == copy[306]
            assert copy.location(299) == (first, 299)
            assert copy.location(302) == (second, 2)
            assert copy.column("qry").to_pylist() == [f"q{n}" for n in range(307)]
            for index in (307, -308):
                with pytest.raises(IndexError, match="of 307 of GQA"):
                    copy[index]

    def test_an_image_token_without_an_image_is_removed_as_in_webqa(self, data, suffix):
        write(data, "WebQA", "original", [(f"{TOKEN}\nFind  it\n", "", f"{TOKEN} t\n", "")], suffix)
        subset = read_train(data, "WebQA")
        assert subset[0] == TrainRecord(Side("Find  it\n"), Side("t\n"))
        assert dict(subset.skipped.mended) == {"image tokens without an image, removed": 2}
        assert str(subset.skipped) == "mended, 2 times: image tokens without an image, removed"

    def test_an_image_without_a_token_gets_one_in_front(self, data, suffix):
        write(data, "GQA", "original", [(" What?\n", "images/0.png", "", "images/1.png")], suffix)
        record = read_train(data, "GQA")[0]
        assert record.query.text == f"{TOKEN}\n What?\n"
        assert record.positive.text == TOKEN

    @pytest.mark.parametrize(
        ("text", "path", "negatives"),
        [
            ("", "", []),
            (None, None, []),
            ([], [], []),
            (["", ""], ["", ""], []),
            (["", None], None, []),
            ("[]", "[]", []),
            (" \n", "", []),
            ("a", "", ["a"]),
            (["a", "b"], ["", ""], ["a", "b"]),
            (["a", "b"], "", ["a", "b"]),
            (["a", "", "b"], [], ["a", "b"]),
            ("['a', \"it's\"]", "['', '']", ["a", "it's"]),
            ('["a", null, "b\\n"]', "", ["a", "b\n"]),
            ("  ['a', None]\n", "", ["a"]),
            ("[a caption] in brackets", "", ["[a caption] in brackets"]),
            ("[1, 2]", "", ["[1, 2]"]),
            ("['\\d']", "", ["\\d"]),
            ("[" * 5000, "", ["[" * 5000]),
            ("__import__('os').system('false')", "", ["__import__('os').system('false')"]),
            ("", "images/3.png", [3]),
            (f"{TOKEN}\nx", "images/3.png", [f"{TOKEN}\nx:3"]),
            ("['', '']", "['images/2.png', 'images/3.png']", [2, 3]),
            ("", ["images/2.png", "", "images/3.png"], [2, 3]),
            (["a", ""], ["", "images/3.png"], ["a", 3]),
            (f"{TOKEN}\nRepresent the image.", "", []),
            ("the positive", "", []),
            (["the positive", "a"], "", ["a"]),
        ],
    )
    def test_negatives_in_any_spelling(self, data, suffix, text, path, negatives):
        write(data, "GQA", "original", [("q", "", "the positive", "", text, path)], suffix)

        def side(expected):
            if isinstance(expected, int):
                return Side(TOKEN, (data / f"images/{expected}.png",))
            words, _, image = expected.rpartition(":")
            return Side(words, (data / f"images/{image}.png",)) if words.startswith(TOKEN) else Side(expected)

        assert read_train(data, "GQA")[0].negatives == tuple(map(side, negatives))

    def test_dropped_negatives_are_counted(self, data):
        rows = [("q", "", "p", "", ["p", TOKEN, "n"], ["", "", ""])]
        write(data, "GQA", "original", rows)
        assert dict(read_train(data, "GQA").skipped.mended) == {
            "negatives that lack their image, dropped": 1,
            "negatives equal to the positive, dropped": 1,
        }

    @pytest.mark.parametrize(
        ("text", "path", "positives"),
        [
            (["a", "b"], "", [Side("a"), Side("b")]),
            (["a", "b", "a"], ["", "", ""], [Side("a"), Side("b")]),
            ("['a', 'b']", "", [Side("['a', 'b']")]),
            (["a"], None, [Side("a")]),
            ("", ["images/0.png", "images/1.png"], [0, 1]),
            ([f"{TOKEN}\nx", "y"], ["images/2.png", ""], [2, Side("y")]),
        ],
    )
    def test_several_positives(self, data, text, path, positives):
        row = {"qry": "q", "qry_image_path": "", "pos_text": text, "pos_image_path": path, "neg_text": ["b", "n"]}
        write(data, "GQA", "original", [row], "jsonl")
        record = read_train(data, "GQA")[0]
        words = f"{TOKEN}\nx" if isinstance(text, list) else TOKEN
        expected = [
            Side(words, (data / f"images/{side}.png",)) if isinstance(side, int) else side for side in positives
        ]
        assert list(record.positives) == expected
        assert record.positive == expected[0]
        assert [side.text for side in record.negatives] == (["n"] if Side("b") in expected else ["b", "n"])

    @pytest.mark.parametrize(
        ("text", "path", "field", "reason"),
        [
            ([], [], "pos_text", "neither text nor image"),
            (["a", ""], "", "pos_text", "neither text nor image: number 1 of the list"),
            (["a", "b"], ["images/0.png"], "pos_image_path", "not as long as pos_text: 1 paths for 2 texts"),
            ("", ["images/0.png", "images/9.png"], "pos_image_path", "no such image file: .*, number 1 of the list"),
        ],
    )
    def test_one_bad_positive_spoils_its_row(self, data, text, path, field, reason):
        row = {"qry": "q", "qry_image_path": "", "pos_text": text, "pos_image_path": path}
        file = write(data, "GQA", "original", [row], "jsonl")
        with pytest.raises(BadRecordError, match=rf"^{file}, row 0, field '{field}': {reason}"):
            read_train(data, "GQA")

    def test_the_split_with_many_wordings_is_read_on_request(self, data, suffix):
        write(data, "GQA", "original", [GOOD], suffix)
        write(data, "GQA", "diverse_instruction", [("Other words\n", *GOOD[1:])] * 2, suffix)
        assert len(read_train(data, "GQA")) == 1
        diverse = read_train(data, "GQA", "diverse_instruction")
        assert [record.query.text for record in diverse] == [f"{TOKEN}\nOther words\n"] * 2
        assert [info.name for info in find_subsets(data, "diverse_instruction")] == ["GQA"]

    BAD = (
        (("", "", "p", ""), "qry", "neither text nor image"),
        ((None, None, "p", ""), "qry", "neither text nor image"),
        ((f"{TOKEN}\n", "", "p", ""), "qry", "neither text nor image"),
        (("q", "", " \n", ""), "pos_text", "neither text nor image"),
        ((f"{TOKEN} and {TOKEN}", "images/0.png", "p", ""), "qry", "one image needs one"),
        (("<|image_2|> x", "images/0.png", "p", ""), "qry", "one image needs one"),
        ((f"{TOKEN}<|image_2|>", "images/0.png", "p", ""), "qry", "one image needs one"),
        (("q", "images/9.png", "p", ""), "qry_image_path", "no such image file: 'images/9.png'"),
        (("q", "/etc/passwd", "p", ""), "qry_image_path", "absolute path: '/etc/passwd'"),
        (("q", "", "p", "../x.png"), "pos_image_path", r"path with '\.\.': '\.\./x\.png'"),
        (("q", "", "p", "https://x.org/a.png"), "pos_image_path", "URLs are not read"),
        (("q", "", "p", "images"), "pos_image_path", "not a regular file"),
        (("q", "", "p", "images/\0"), "pos_image_path", "path with a NUL byte"),
        (("q", "", "p", "GQA/notes.txt"), "pos_image_path", "not an image: begins with b'hello"),
        (("q", "", "p", "", "", ["images/0.png", "images/9.png"]), "neg_image_path", "no such image.*number 1 of"),
        (("q", "", "p", "", ["a", "b"], ["images/0.png"]), "neg_image_path", "not as long as neg_text: 1 paths for 2"),
        (("q", "", "p", "", "['a', 'b", ""), "neg_text", r"begins like a list but is none: \"\['a', 'b\""),
        (("q", "", "p", "", '["\\ud800"]', ""), "neg_text", "not valid Unicode"),
    )

    @pytest.mark.parametrize(("row", "field", "reason"), BAD)
    def test_a_bad_row_is_named_or_skipped_and_counted(self, data, suffix, row, field, reason):
        row = (*row, "", "")[:6]
        good = ("q", "", "p", "", [], []) if any(isinstance(cell, list) for cell in row) else ("q", "", "p", "", "", "")
        if suffix == "parquet":  # a column has one type there
            row = (*row[:4], *(([cell] if cell else []) if isinstance(good[4], list) and isinstance(cell, str) else cell
                               for cell in row[4:]))  # fmt: skip
        file = write(data, "GQA", "original", [good, row, good], suffix)
        (data / "GQA" / "notes.txt").write_text("hello")
        with pytest.raises(BadRecordError, match=rf"^{file}, row 1, field '{field}': {reason}") as caught:
            read_train(data, "GQA")
        assert (caught.value.file, caught.value.row, caught.value.field) == (file, 1, field)
        subset = read_train(data, "GQA", on_bad_record="skip")
        assert [subset.location(index) for index in range(len(subset))] == [(file, 0), (file, 2)]
        skipped = subset.skipped
        assert skipped
        assert (skipped.rows, skipped.skipped) == (3, 1)
        ((kind, count),) = skipped.reasons.items()
        assert count == 1
        assert kind.startswith(f"{field}: ")
        assert str(skipped.first[0]) == str(caught.value)
        assert "left out 1 of 3 rows:" in str(skipped)

    def test_the_report_counts_by_kind_and_keeps_the_first_few(self, data):
        rows = [("q", f"images/{n}.png", "p", "") for n in range(4, 30)] + [("", "", "p", "")] * 3 + [GOOD]
        write(data, "GQA", "original", rows)
        skipped = read_train(data, "GQA", on_bad_record="skip").skipped
        assert skipped.reasons == {"qry_image_path: no such image file": 26, "qry: neither text nor image": 3}
        assert [error.row for error in skipped.first] == [0, 1, 2, 3, 4]
        assert str(skipped).splitlines()[1:4] == [
            "left out 29 of 30 rows:",
            "  26 x qry_image_path: no such image file",
            "  3 x qry: neither text nor image",
        ]

    @pytest.mark.parametrize("rows", [[("", "", "p", "")] * 2, []])
    def test_no_good_row_is_an_error_even_when_skipping(self, data, rows):
        write(data, "GQA", "original", rows, "jsonl")
        with pytest.raises(BadInputError, match=r"'GQA'.*(all 2 rows are bad, the first: .*row 0|no rows)"):
            read_train(data, "GQA", on_bad_record="skip")

    def test_images_are_held_to_what_was_asked(self, data, suffix):
        (data / "images" / "text.png").write_text("hello")
        for path, fails_at in [("cut", "decode"), ("text", "header"), ("none", "path"), ("0", None)]:
            write(data, "GQA", "original", [("q", f"images/{path}.png", "p", "")], suffix)
            levels = ["path", "header", "decode"]
            for level in levels:
                if fails_at is None or levels.index(level) < levels.index(fails_at):
                    assert len(read_train(data, "GQA", verify_images=level)) == 1
                else:
                    with pytest.raises(BadRecordError, match="row 0, field 'qry_image_path'"):
                        read_train(data, "GQA", verify_images=level)

    def test_each_distinct_image_is_looked_at_once(self, data, monkeypatch):
        from ega_jax.data import mmeb

        seen = []
        monkeypatch.setattr(mmeb, "open_image", lambda path: seen.append(path.name))
        write(data, "GQA", "original", [("q", f"images/{n % 2}.png", "p", "images/2.png") for n in range(600)])
        read_train(data, "GQA", verify_images="decode")
        assert sorted(seen) == ["0.png", "1.png", "2.png"]

    def test_images_may_live_elsewhere(self, data, tmp_path_factory):
        rows = tmp_path_factory.mktemp("rows")
        write(rows, "GQA", "original", [GOOD])
        with pytest.raises(BadRecordError, match="no such image file"):
            read_train(rows, "GQA")
        record = read_train(rows, "GQA", image_directory=data)[0]
        assert record.query.images == (data / "images/0.png",)

    @pytest.mark.parametrize("setting", [{"on_bad_record": "warn"}, {"verify_images": True}])
    def test_unknown_settings_are_refused(self, data, setting):
        write(data, "GQA", "original", [GOOD])
        with pytest.raises(ValueError, match=next(iter(setting))):
            read_train(data, "GQA", **setting)


class TestFiles:
    @pytest.mark.parametrize("names", [("query", *TRAIN[1:]), TRAIN[:3]])
    def test_a_missing_column_is_named(self, data, suffix, names):
        missing = "qry" if names[0] == "query" else "pos_image_path"
        file = write(data, "GQA", "original", [tuple("x" for _ in names)], suffix, names)
        with pytest.raises(BadInputError, match=rf"{file}.*'{missing}'.* is missing"):
            read_train(data, "GQA")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                ("qry", "qry_img_path", "pos_text", "pos_image_path"),
                "'qry_image_path'.*missing .did you mean 'qry_img_",
            ),
            ((*TRAIN[:4], "neg_txt"), "'neg_txt'.* is unknown .did you mean 'neg_text'"),
            ((*TRAIN[:4], "Neg_text"), "'Neg_text'.* is unknown .did you mean 'neg_text'"),
        ],
    )
    def test_a_misspelt_column_is_met_with_the_right_one(self, data, suffix, names, message):
        write(data, "GQA", "original", [tuple("" for _ in names)], suffix, names)
        with pytest.raises(BadInputError, match=message):
            read_train(data, "GQA")

    def test_damaged_bytes_never_raise_anything_but_bad_input(self, data, suffix):
        rng = random.Random(0)
        file = write(data, "GQA", "original", [(f"q{n}", "", "p", "", ["a"], [""]) for n in range(20)], suffix)
        content = file.read_bytes()
        outcomes = collections.Counter()
        for _ in range(200):
            damaged = bytearray(content)
            for _ in range(rng.choice([1, 3, 20])):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            file.write_bytes(damaged)
            try:
                subset = read_train(data, "GQA", on_bad_record="skip")
                outcomes["refused" if subset.skipped.skipped else "read"] += 1
            except BadInputError as error:
                assert file.name in str(error)  # noqa: PT017
                outcomes["refused"] += 1
        assert outcomes["read"] > 0
        assert outcomes["refused"] > 100

    def test_a_column_name_that_is_not_text_is_refused(self, data):
        file = write(data, "GQA", "original", [GOOD])
        file.write_bytes(file.read_bytes().replace(b"pos_image_path", b"pos_image_\xf6ath"))
        with pytest.raises(BadInputError, match="cannot be read as parquet"):
            read_train(data, "GQA")

    def test_other_columns_are_ignored(self, data, suffix):
        names = (*TRAIN[:4], "id", "source")
        write(data, "GQA", "original", [(*GOOD, 7, ["x"])], suffix, names)
        assert read_train(data, "GQA")[0].positive.text == "a  label "

    @pytest.mark.parametrize(
        ("array", "type_name"),
        [
            (pa.array([1, 2]), "int64"),
            (pa.array([b"a", b"b"]), "binary"),
            (pa.array([["a"], ["b"]]), "list"),
        ],
    )
    def test_a_column_of_another_type_is_refused(self, data, array, type_name):
        (data / "GQA").mkdir()
        columns = {name: pa.array(["x", "y"]) for name in TRAIN[:4]} | {"qry": array}
        pq.write_table(pa.table(columns), data / "GQA" / "original.parquet")
        with pytest.raises(
            BadInputError, match=rf"original\.parquet: column 'qry' is of type {type_name}.*expected string"
        ):
            read_train(data, "GQA")

    @pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
    def test_every_kind_of_string_column_is_read(self, data, kind):
        (data / "GQA").mkdir()
        columns = {name: pa.array(["x", "y"]).cast(kind) for name in TRAIN[:4]} | {
            "qry_image_path": pa.nulls(2),
            "pos_image_path": pa.nulls(2),
        }
        pq.write_table(pa.table(columns), data / "GQA" / "original.parquet")
        assert read_train(data, "GQA")[1] == TrainRecord(Side("y"), Side("y"))

    @pytest.mark.parametrize("keep", [0, 3, 200, -1, -20])
    def test_a_truncated_parquet_file_is_refused(self, data, keep):
        file = write(data, "GQA", "original", [GOOD] * 50)
        file.write_bytes(file.read_bytes()[:keep])
        with pytest.raises(BadInputError, match=r"original-00000-of-00001\.parquet: cannot be read as parquet"):
            read_train(data, "GQA")

    def test_a_parquet_file_with_damaged_pages_is_refused(self, data):
        file = write(data, "GQA", "original", [(f"question {n}", "", f"answer {n}", "") for n in range(500)])
        content = bytearray(file.read_bytes())
        content[4:600] = bytes(596)
        file.write_bytes(content)
        with pytest.raises(BadInputError, match="cannot be read as parquet"):
            read_train(data, "GQA")

    def test_invalid_utf8_in_parquet_is_found_by_row_and_column(self, data):
        (data / "GQA").mkdir()
        file = data / "GQA" / "original.parquet"
        texts = pa.array([b"fine"] * 300 + [b"caf\xe9"] + [b"fine"] * 20, pa.binary())
        columns = {name: pa.array(["x"] * 321) for name in TRAIN[:4]}
        columns |= {"qry_image_path": pa.nulls(321), "pos_image_path": pa.nulls(321)}
        columns["pos_text"] = pa.StringArray.from_buffers(321, *texts.buffers()[1:])
        pq.write_table(pa.table(columns), file)
        with pytest.raises(BadRecordError, match=r"row 300, field 'pos_text': not valid UTF-8: .* at byte 3"):
            read_train(data, "GQA")
        subset = read_train(data, "GQA", on_bad_record="skip")
        assert len(subset) == 320
        assert subset.location(300) == (file, 301)

    ROW = b'{"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}'

    @pytest.mark.parametrize(
        ("line", "field", "reason"),
        [
            (b'{"qry": ', "line", "not valid JSON"),
            (b"\xff\xfe{}", "line", "not valid UTF-8: .* at byte 0"),
            (ROW.replace(b'"q"', b'"caf\xe9"'), "line", "not valid UTF-8"),
            (ROW.replace(b'"q"', b'"\\ud83d"'), "qry", "not valid Unicode"),
            (b"[1, 2]", "line", "not a JSON object: a list"),
            (b"null", "line", "not a JSON object: null"),
            (b"[" * 100_000, "line", "not valid JSON"),
            (b"9" * 10_000, "line", "not valid JSON"),
            (b"", "line", "empty line"),
            (ROW.replace(b'"q"', b"7"), "qry", "expected string: it is a number"),
            (ROW.replace(b'"q"', b"true"), "qry", "expected string: it is true or false"),
            (ROW.replace(b'"q"', b'["q"]'), "qry", "expected string: it is a list"),
            (ROW.replace(b'"q"', b'{"text": "q"}'), "qry", "expected string: it is an object"),
            (ROW.replace(b"}", b', "neg_text": [1]}'), "neg_text", "expected strings in the list: one is a number"),
            (ROW.replace(b"}", b', "neg_text": ["\\udc00"]}'), "neg_text", "not valid Unicode"),
            (ROW.replace(b'"pos_text": "p", ', b""), "pos_text", "is missing"),
            (ROW.replace(b"}", b', "neg_texts": "x"}'), "neg_texts", "is unknown .did you mean 'neg_text'"),
        ],
    )
    def test_a_bad_line_is_found_by_its_number(self, data, line, field, reason):
        file = data / "GQA" / "train.jsonl"
        file.parent.mkdir()
        file.write_bytes(b"\n".join([self.ROW, line, self.ROW, b""]))
        with pytest.raises(BadRecordError, match=rf"^{file}, row 1, field '{field}': {reason}"):
            read_train(data, "GQA")
        subset = read_train(data, "GQA", on_bad_record="skip")
        assert [subset.location(index)[1] for index in range(len(subset))] == [0, 2]
        assert subset.skipped.skipped == 1

    def test_byte_order_mark_carriage_returns_and_a_blank_end_are_taken(self, data):
        file = data / "GQA" / "train.jsonl"
        file.parent.mkdir()
        file.write_bytes(b"\xef\xbb\xbf" + self.ROW + b"\r\n" + self.ROW + b"\r\n\r\n\n")
        assert len(read_train(data, "GQA")) == 2


class TestEval:
    def test_targets_are_unique_and_the_gold_one_first(self, data, suffix):
        rows = [
            (f"{TOKEN}\nWhat?\n", "images/0.png", ["cat", "dog", "a  b"], ["", "", ""]),
            ("Find\n", "", ["dog", f"{TOKEN}\nR\n", f"{TOKEN}\nR\n"], ["", "images/1.png", "images/2.png"]),
            ("Find\n", "", [f"{TOKEN}\nR\n", "cat"], ["images/2.png", ""]),
        ]
        write(data, "GQA", "test", rows, suffix)
        subset = read_eval(data, "GQA", "test")
        assert subset.info == SUBSETS["GQA"]
        assert subset.queries == (Side(f"{TOKEN}\nWhat?\n", (data / "images/0.png",)), Side("Find\n"), Side("Find\n"))
        for index, (_, _, texts, paths) in enumerate(rows):
            assert subset.candidates[index].dtype == np.int32
            assert [subset.targets[place] for place in subset.candidates[index]] == [
                Side(text, (data / path,) if path else ()) for text, path in zip(texts, paths, strict=True)
            ]
        assert len(subset.targets) == len(set(subset.targets)) == 5
        assert str(subset.skipped) == ""
        assert not subset.skipped

    def test_a_candidate_listed_twice_counts_once(self, data, suffix):
        write(data, "GQA", "validation", [("q", "", ["gold", "a", "gold", "b", "a"], [""] * 5)], suffix)
        subset = read_eval(data, "GQA", "validation")
        assert [subset.targets[place].text for place in subset.candidates[0]] == ["gold", "a", "b"]
        assert dict(subset.skipped.mended) == {"candidates that are in their list twice, dropped": 2}

    @pytest.mark.parametrize(
        ("row", "field", "reason"),
        [
            (("q", "", [], []), "tgt_text", "no candidates"),
            (("q", "", None, None), "tgt_text", "no candidates"),
            (("q", "", ["a", "b"], [""]), "tgt_img_path", "not as long as tgt_text: 1 paths for 2 texts"),
            (("q", "", ["a", ""], ["", ""]), "tgt_text", "neither text nor image: number 1 of the list"),
            (("q", "", ["a", None], [None, None]), "tgt_text", "neither text nor image: number 1 of the list"),
            (("", "", ["a"], [""]), "qry_text", "neither text nor image$"),
            (("q", "images/9.png", ["a"], [""]), "qry_img_path", "no such image file"),
            (("q", "", ["a", "b"], ["", "../b.png"]), "tgt_img_path", r"path with '\.\.'.*, number 1 of the list"),
            (("q", "", [TOKEN * 2], ["images/0.png"]), "tgt_text", "one image needs one"),
        ],
    )
    def test_a_bad_row_is_named_or_skipped_whole(self, data, suffix, row, field, reason):
        good = ("good", "", ["x", "y"], ["", ""])
        file = write(data, "GQA", "test", [good, row, good], suffix)
        with pytest.raises(BadRecordError, match=rf"^{file}, row 1, field '{field}': {reason}"):
            read_eval(data, "GQA", "test")
        subset = read_eval(data, "GQA", "test", on_bad_record="skip")
        assert [query.text for query in subset.queries] == ["good", "good"]
        assert [target.text for target in subset.targets] == ["x", "y"]  # nothing of the row that was left out
        assert (subset.skipped.rows, subset.skipped.skipped) == (3, 1)

    def test_many_wrong_candidates_are_one_kind(self, data):
        rows = [("q", "", ["a"] * place + [""], [""] * (place + 1)) for place in range(1, 5)]
        write(data, "GQA", "test", [*rows, ("q", "", ["a"], [""])])
        skipped = read_eval(data, "GQA", on_bad_record="skip").skipped
        assert skipped.reasons == {"tgt_text: neither text nor image": 4}

    def test_a_string_where_a_list_belongs_is_refused(self, data, suffix):
        write(data, "GQA", "test", [("q", "", "a", "")], suffix)
        with pytest.raises(BadInputError, match=r"'tgt_text'.* expected list"):
            read_eval(data, "GQA")

    def test_training_rows_are_not_taken_for_evaluation_rows(self, data, suffix):
        write(data, "GQA", "test", [GOOD], suffix, TRAIN)
        with pytest.raises(BadInputError, match=r"'qry_text'.* is missing"):
            read_eval(data, "GQA")
