"""An item's vector is its own, whatever is encoded with it; one program a bucket; shorter vectors."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ega_jax import Embedder
from ega_jax.errors import BadInputError
from ega_jax.training.setup import make_setup, starting_parameters, write_model_directory

from .colours import COLOURS
from .micro import config

# Of an entry of a unit vector, as against transformers (tests/conversion): sums are taken in another order.
# One x86 CPU gives 9e-7, with Qwen2-VL.
ROUNDING = 2e-6
pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("cheap_compiles")]

IMAGE_BUCKETS = {"micro": (0, 3, 5), "micro_qqmm": (0, 64, 128), "micro_qwen2_vl": (0, 16, 48)}


@pytest.fixture(scope="module", params=IMAGE_BUCKETS)
def embedder(request, tmp_path_factory):
    """Random weights of each backbone, with buckets that the items below spread over."""
    experiment = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, preset=request.param, system_prompt=""),
        data=dataclasses.replace(config.data, image_buckets=IMAGE_BUCKETS[request.param]),
    )
    directory = tmp_path_factory.mktemp(request.param) / "model"
    write_model_directory(experiment, directory, lambda: [*COLOURS, "Which colour is it?"])
    setup = make_setup(experiment, directory)
    return Embedder.of(setup, starting_parameters(experiment, setup))


def picture(seed, width, height):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def items():
    """Texts of many lengths, pictures of many shapes, one alone and several, with a text and without."""
    return [
        {"text": "red"},
        {"text": "Which colour is it?", "image": picture(0, 32, 32)},
        {"text": "is it green or is it blue, " * 3},
        {"text": "Which are alike?", "images": [picture(1, 16, 16), picture(2, 20, 16), picture(3, 16, 24)]},
        {"image": picture(4, 16, 32)},
        {"text": "w"},
        {"images": [picture(5, 24, 16), picture(6, 16, 16)]},
    ]


def test_a_vector_depends_on_its_item_alone(embedder, items):
    # Batches are cut over the devices, eight in the tests: one, two and three rows on each.
    vectors = embedder.encode(items, batch_size=16)
    assert np.abs(vectors[:, None] - vectors).max(-1)[~np.eye(len(items), dtype=bool)].min() > 1e-3  # all differ
    alone = np.concatenate([embedder.encode([item], batch_size=1) for item in items])
    np.testing.assert_allclose(alone, vectors, rtol=0, atol=ROUNDING)
    order = [3, 0, 6, 2, 5, 1, 4]
    shuffled = embedder.encode([items[i] for i in order], batch_size=8)
    np.testing.assert_allclose(shuffled, vectors[order], rtol=0, atol=ROUNDING)
    # Beside others, and more of them than before.
    crowd = embedder.encode([*items[3:], *items[3:], *items], batch_size=24)
    np.testing.assert_allclose(crowd, vectors[[3, 4, 5, 6, 3, 4, 5, 6, *range(7)]], rtol=0, atol=ROUNDING)


def test_one_program_a_bucket_and_none_inside_it(embedder, items, monkeypatch):
    """Counts the programs that XLA has been given, against the buckets that batches had."""
    used = set()
    fit = type(embedder.buckets).fit

    def noted(buckets, *arguments):
        used.add(bucket := fit(buckets, *arguments))
        return bucket

    monkeypatch.setattr(type(embedder.buckets), "fit", noted)
    embedder.embed.clear_cache()
    for item in (*items, {"text": "another"}, {"text": "w" * 9}, {"image": picture(7, 16, 31)}):
        embedder.encode([item], batch_size=2)
        assert embedder.embed._cache_size() == len(used)
    assert 3 <= len(used) < len(items)
    before = len(used)
    embedder.encode([{"text": text} for text in ("a", "bc", "def")], batch_size=2)  # another length, a short last batch
    assert embedder.embed._cache_size() == len(used) == before


def test_shorter_vectors_are_cut_and_normalised(embedder, items):
    vectors = embedder.encode(items, batch_size=8)
    for width in (1, 5):
        cut = embedder.encode(items, batch_size=8, dimensions=width)
        assert cut.dtype == np.float32
        expected = vectors[:, :width] / np.linalg.norm(vectors[:, :width].astype(np.float64), axis=1, keepdims=True)
        np.testing.assert_allclose(cut, expected, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(embedder.encode(items, batch_size=8, dimensions=16), vectors)


@pytest.mark.parametrize("dimensions", [0, -1, 17])
def test_a_width_that_vectors_do_not_have_is_refused(embedder, dimensions):
    with pytest.raises(BadInputError, match=f"dimensions must be from 1 to the model's 16, got {dimensions}"):
        embedder.encode([{"text": "red"}], dimensions=dimensions)


def test_facts_change_with_the_weights(embedder):
    same = embedder.with_parameters(dict(embedder.parameters))
    assert same.facts == embedder.facts
    name, leaf = next(iter(embedder.parameters.items()))
    assert embedder.with_parameters({**embedder.parameters, name: leaf + 1}).facts != embedder.facts


def test_facts_change_with_all_else_that_changes_vectors(tmp_path):
    directory = tmp_path / "model"
    write_model_directory(config, directory, lambda: COLOURS)
    model, data = config.model, config.data
    changed = {
        "nothing": {},
        "prompt": {"model": dataclasses.replace(model, system_prompt="Be brief.")},
        "resolution": {"model": dataclasses.replace(model, max_tiles=1)},
        "tiles": {"model": dataclasses.replace(model, base_only=True)},
        "dtype": {"model": dataclasses.replace(model, dtype="bfloat16")},
        "longest row": {"data": dataclasses.replace(data, token_buckets=(32, 64))},
    }
    setups = [make_setup(dataclasses.replace(config, **change), directory) for change in changed.values()]
    parameters = starting_parameters(config, setups[0])
    facts = [Embedder.of(setup, parameters).facts for setup in setups]
    assert len({frozenset(found.items()) for found in facts}) == len(changed)
    assert len({found["weights"] for found in facts}) == 1


def test_a_process_prepares_its_own_groups_alone(embedder, items, monkeypatch):
    prepared = []
    prepare = embedder.processor.prepare
    monkeypatch.setattr(embedder.processor, "prepare", lambda side: prepared.append(side) or prepare(side))
    whole = embedder.encode([*items, items[0]], batch_size=8)
    assert len(prepared) == 8
    prepared.clear()
    half = dataclasses.replace(embedder, groups=range(4)).encode([*items, items[0]], batch_size=8)
    assert len(prepared) == 4
    equal = (half == whole).all(axis=1)
    assert equal.sum() == 4
