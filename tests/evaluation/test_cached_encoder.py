"""Vectors are kept by content and by what made them, survive a kill, and are never stale, damaged or not finite."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from ega_jax.data.records import EvalSubset, Side, SubsetInfo
from ega_jax.errors import BadInputError
from ega_jax.evaluation import NonFiniteEmbeddingError, evaluate
from ega_jax.evaluation.cached_encoder import CachedEncoder
from ega_jax.evaluation.content import content_keys, subset_fingerprint
from ega_jax.evaluation.vector_cache import VectorCache

from .synthetic_subsets import TableEncoder, random_subset, unit_rows

FACTS = {"weights": "one", "recipe": "last token"}
WIDTH = 16


@pytest.fixture
def sides():
    return [Side(f"text {number}") for number in range(50)]


@pytest.fixture
def encoder(sides):
    return TableEncoder(dict(zip([side.text for side in sides], unit_rows(np.random.default_rng(0), 50), strict=True)))


def cached(encoder, directory, facts=FACTS, **options):
    return CachedEncoder(encoder, WIDTH, VectorCache(directory, facts, WIDTH), **options)


def test_nothing_is_embedded_twice_and_vectors_come_back_bit_for_bit(tmp_path, sides, encoder):
    asked = [sides[place] for place in np.random.default_rng(1).integers(0, 50, 200)]
    expected = encoder(asked)
    first = cached(encoder, tmp_path, items_per_shard=7)
    np.testing.assert_array_equal(first(asked), expected)
    distinct = len(set(asked))
    assert (first.encoded, first.reused) == (distinct, 0)
    assert max(map(len, encoder.calls[1:])) == 7
    calls = len(encoder.calls)
    again = cached(encoder, tmp_path)
    np.testing.assert_array_equal(again(asked[::-1]), expected[::-1])
    assert (again.encoded, again.reused, len(encoder.calls)) == (0, distinct, calls)
    again([*sides, Side("text 0")])
    assert (again.encoded, again.reused) == (50 - distinct, 2 * distinct)


def test_without_a_cache_equal_sides_are_still_embedded_once(sides, encoder):
    asked = [*sides, *sides]
    progress = []
    encode = CachedEncoder(encoder, WIDTH, items_per_shard=20, progress=progress.append)
    np.testing.assert_array_equal(encode(asked), np.tile(encoder(sides), (2, 1)))
    assert progress == [20, 20, 10]


@pytest.mark.parametrize("change", [{"weights": "two"}, {"recipe": "mean"}, {"more": ""}])
def test_other_weights_or_another_recipe_find_nothing(tmp_path, sides, encoder, change):
    cached(encoder, tmp_path)(sides)
    other = cached(TableEncoder({side.text: -encoder.table[side.text] for side in sides}), tmp_path, FACTS | change)
    np.testing.assert_array_equal(other(sides), -encoder(sides))
    assert (other.encoded, other.reused) == (50, 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_content_counts_and_not_the_path(tmp_path):
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    for name, picture in {"a": red, "b": blue, "copy": red}.items():
        picture.save(tmp_path / f"{name}.png")
    a, b, copy = ((tmp_path / f"{name}.png",) for name in ("a", "b", "copy"))
    sides = [
        Side("t", a),
        Side("t", copy),
        Side("t", b),
        Side("u", a),
        Side("t"),
        Side("t", (*a, *b)),
        Side("t", (red,)),
    ]
    sides += [Side("t", (red.copy(),)), Side("t", (red.convert("L"),)), Side("t", (*b, *a)), Side("t", (*a, *a))]
    keys = content_keys(sides)
    assert keys[0] == keys[1]
    assert keys[6] == keys[7]
    assert len(set(keys)) == len(keys) - 2
    blue.save(tmp_path / "a.png")  # overwritten in place
    assert content_keys([Side("t", a)])[0] == keys[2]
    with pytest.raises(BadInputError, match=r"gone\.png: cannot be read"):
        content_keys([Side("t", (tmp_path / "gone.png",))])


def test_what_is_not_finite_is_refused_and_never_kept(tmp_path):
    subset, table = random_subset(np.random.default_rng(2))
    sound = {**table}
    table["letters target 9"] = np.full(WIDTH, np.nan)
    with pytest.raises(NonFiniteEmbeddingError, match="'letters', target 9"):
        evaluate(cached(TableEncoder(table), tmp_path), [subset])
    mended = cached(TableEncoder(sound), tmp_path)
    assert evaluate(mended, [subset]) == evaluate(TableEncoder(sound), [subset])
    assert (mended.encoded, mended.reused) == (1, 99)


@pytest.mark.parametrize("damage", ["cut", "flip a byte", "empty"])
def test_a_damaged_shard_is_embedded_again(tmp_path, sides, encoder, damage):
    cached(encoder, tmp_path, items_per_shard=25)(sides)
    shard = sorted(tmp_path.glob("*/vectors-*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    if damage == "flip a byte":
        content[-100] ^= 1
    shard.write_bytes({"cut": content[:-100], "flip a byte": content, "empty": b""}[damage])
    again = cached(encoder, tmp_path)
    np.testing.assert_array_equal(again(sides), encoder(sides))
    assert (again.encoded, again.reused) == (25, 25)
    assert cached(encoder, tmp_path)(sides).shape == (50, WIDTH)


def test_shards_are_plain_safetensors_of_float32(tmp_path, sides, encoder):
    cached(encoder, tmp_path)(sides)
    (shard,) = tmp_path.glob("*/vectors-*.safetensors")
    tensors = load_file(shard)
    np.testing.assert_array_equal(tensors["vectors"], encoder(sides))
    assert [row.tobytes() for row in tensors["keys"]] == content_keys(sides)
    (tmp_path / "another").touch()
    assert shard.stat().st_mode == (tmp_path / "another").stat().st_mode, "others may read it"


PROGRAM = """
import sys, time
import numpy as np
from ega_jax.data.records import Side
from ega_jax.evaluation.cached_encoder import CachedEncoder
from ega_jax.evaluation.vector_cache import VectorCache

def encode(sides):
    time.sleep(0.02)
    return np.stack([np.full(4, float(side.text), np.float32) for side in sides])

cache = VectorCache(sys.argv[1], {}, 4)
found = len(cache)
vectors = CachedEncoder(encode, 4, cache, items_per_shard=2)([Side(str(number)) for number in range(400)])
assert (vectors[:, 0] == np.arange(400)).all()
print(found)
"""


def test_a_killed_process_loses_one_shard_at_most(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    process = subprocess.Popen(command, env=os.environ)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("*/vectors-*"))) < 20 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    kept = 2 * len(list(tmp_path.glob("*/vectors-*")))
    assert 40 <= kept < 400
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(finished.stdout) == kept


def test_processes_without_a_common_disk_agree(tmp_path, sides, encoder):
    """The first process's answers are what the others go by, whatever they could see themselves."""
    cached(encoder, tmp_path)(sides[:30])
    sent = []

    def send(array):
        sent.append(array)
        return array

    first = cached(encoder, tmp_path, share=send, items_per_shard=8)
    expected = first(sides)
    asked = [list(call) for call in encoder.calls[-3:]]

    def receive(array):
        answer = sent.pop(0)
        assert (answer.shape, answer.dtype) == (array.shape, array.dtype)
        return answer

    other = CachedEncoder(encoder, WIDTH, None, leads=False, share=receive, items_per_shard=8)
    np.testing.assert_array_equal(other(sides), expected)
    assert encoder.calls[-3:] == asked
    assert not sent


def test_fingerprint_names_the_questions_and_not_their_order_of_candidates():
    subset, _ = random_subset(np.random.default_rng(3))
    name = subset_fingerprint(subset)
    pools = subset.candidates
    rolled = tuple(np.concatenate([pool[:1], pool[:0:-1]]) for pool in pools)

    def of(queries=subset.queries, targets=subset.targets, candidates=pools):
        return subset_fingerprint(EvalSubset(SubsetInfo("x"), tuple(queries), tuple(targets), tuple(candidates)))

    assert of(candidates=rolled) == name
    assert of(candidates=[np.concatenate([pool, pool[-1:]]) for pool in pools]) == name
    others = {
        "queries": of(queries=subset.queries[::-1]),
        "another right answer": of(candidates=[pools[0][::-1], *pools[1:]]),
        "a candidate less": of(candidates=[*pools[:-1], pools[-1][:-1]]),
        "a text": of(targets=[Side("another"), *subset.targets[1:]]),
        "fewer": of(queries=subset.queries[:-1], candidates=pools[:-1]),
    }
    assert len({name, *others.values()}) == 6, others
