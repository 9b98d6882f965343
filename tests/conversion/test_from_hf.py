"""Published weights in: every tensor under its canonical name, bit for bit, or nothing at all."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ega_jax.cli import BAD_INPUT, DONE, STOPPED, run
from ega_jax.conversion.directories import size_in_bytes
from ega_jax.conversion.from_hf import from_hf
from ega_jax.errors import BadInputError
from ega_jax.models.llava_onevision_names import NAMES

from .published import write_published


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("published") / "model", dtype=torch.bfloat16)


def tensors_of(directory):
    return {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}


def assert_equal_bits(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        assert got[name].tobytes() == value.tobytes(), name


def test_every_tensor_arrives_bit_for_bit_under_its_canonical_name(published, tmp_path, capsys):
    assert run(["convert", "from-hf", str(published), str(tmp_path / "out")]) == DONE
    original = tensors_of(published)
    expected = {NAMES.canonical(name): value for name, value in original.items()}
    assert expected.keys() != original.keys()
    assert "language_model.lm_head.weight" in expected
    assert expected["image_newline"].dtype == ml_dtypes.bfloat16
    assert_equal_bits(tensors_of(tmp_path / "out"), expected)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((published / name).read_text())
    assert f"wrote {len(expected)} tensors" in capsys.readouterr().out
    from_hf(tmp_path / "out", tmp_path / "again")
    assert_equal_bits(tensors_of(tmp_path / "again"), expected)


def test_shards_and_dtype_as_asked(published, tmp_path):
    arguments = ["convert", "from-hf", str(published), str(tmp_path / "out")]
    assert run([*arguments, "--dtype", "float32", "--max-shard-size", "20KB"]) == DONE
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    expected = {NAMES.canonical(name): value.astype(np.float32) for name, value in tensors_of(published).items()}
    assert_equal_bits(tensors_of(tmp_path / "out"), expected)
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert json.loads((published / "config.json").read_text())["dtype"] == "bfloat16"
    assert {told["dtype"], told["text_config"].get("dtype", "float32")} == {"float32"}


def test_values_beyond_float16_are_refused(published, tmp_path):
    tensors = tensors_of(published)
    tensors["image_newline"] = (tensors["image_newline"].astype(np.float32) * 1e7).astype(ml_dtypes.bfloat16)
    broken = copy_of(published, tmp_path / "broken")
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(BadInputError, match="image_newline holds values beyond float16"):
        from_hf(broken, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    from_hf(published, tmp_path / "out", dtype="float16")
    assert tensors_of(tmp_path / "out")["image_newline"].dtype == np.float16


def copy_of(published, target):
    target.mkdir()
    for path in published.iterdir():
        if path.suffix == ".json":
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_what_does_not_fit_is_told_in_one_line_and_nothing_is_written(published, tmp_path, capsys):
    tensors = tensors_of(published)
    tensors["image_oldline"] = tensors.pop("image_newline")
    tensors["multi_modal_projector.linear_1.bias"] = np.zeros(3, np.float32)
    broken = copy_of(published, tmp_path / "broken")
    save_file(tensors, broken / "model.safetensors")
    assert run(["convert", "from-hf", str(broken), str(tmp_path / "out")]) == BAD_INPUT
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    for part in ("unknown: image_oldline", "missing: image_newline", "linear_1.bias (is (3,), must be (16,))"):
        assert part in told[0]
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}


def test_a_tokenizer_of_another_model_is_refused(published, tmp_path, capsys):
    broken = copy_of(published, tmp_path / "broken")
    save_file(tensors_of(published), broken / "model.safetensors")
    config = json.loads((broken / "config.json").read_text())
    key = next(key for key in ("image_token_id", "image_token_index") if key in config)
    (broken / "config.json").write_text(json.dumps(config | {key: 3}))
    assert run(["convert", "from-hf", str(broken), str(tmp_path / "out")]) == BAD_INPUT
    assert "does not fit config.json (image token 3" in capsys.readouterr().err
    (broken / "tokenizer.json").unlink()
    assert run(["convert", "from-hf", str(broken), str(tmp_path / "out")]) == BAD_INPUT
    assert "broken/tokenizer.json: cannot read a tokenizer there (no such file): copy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pickles_are_refused(published, tmp_path, capsys):
    broken = copy_of(published, tmp_path / "broken")
    (broken / "pytorch_model.bin").write_bytes(b"never read")
    assert run(["convert", "from-hf", str(broken), str(tmp_path / "out")]) == BAD_INPUT
    assert "pytorch_model.bin, a pickle" in capsys.readouterr().err


@pytest.mark.parametrize("bytes_before", [1, 30_000])
def test_an_interrupted_conversion_leaves_nothing(published, tmp_path, bytes_before, monkeypatch):
    seen = [0]

    def interrupt(what, total):
        assert total > 30_000

        def advance(written):
            seen[0] += written
            if seen[0] >= bytes_before:
                raise KeyboardInterrupt

        return advance

    monkeypatch.setattr("ega_jax.training.progress.Progress.counter", lambda self, what, total: interrupt(what, total))
    assert run(["convert", "from-hf", str(published), str(tmp_path / "out")]) == STOPPED
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_conversion_left_is_no_model_and_is_cleared_away(published, tmp_path):
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "model-00001-of-00002.safetensors").write_bytes(b"half")
    from_hf(published, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(tensors_of(tmp_path / "out")) == len(tensors_of(published))


def test_nothing_is_written_over(published, tmp_path):
    (tmp_path / "out").mkdir()
    from_hf(published, tmp_path / "out")
    with pytest.raises(BadInputError, match="out: is there already"):
        from_hf(published, tmp_path / "out")


def test_sizes():
    assert [size_in_bytes(text) for text in ("5GB", "1.5 mib", "20KB", "77")] == [5 * 10**9, 3 * 2**19, 20_000, 77]
    for text in ("", "GB", "5 apples", "-1GB", "0"):
        with pytest.raises(BadInputError, match="is not a size"):
            size_in_bytes(text)


def test_usage_is_told(capsys):
    assert run(["convert"]) == BAD_INPUT
    assert run(["convert", "from-fh"]) == BAD_INPUT
    assert "from-hf" in capsys.readouterr().err
    assert run(["convert", "--help"]) == DONE
