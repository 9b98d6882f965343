"""What the processor lays out is what the model reads: a side's embedding does not depend on its batch."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from ega_jax.data import prompts
from ega_jax.data.buckets import Bucket
from ega_jax.data.images import ImageError
from ega_jax.data.processor import Processor
from ega_jax.data.records import Side
from ega_jax.data.tokenizer import train_tokenizer
from ega_jax.errors import BadInputError
from ega_jax.models import PRESETS, build

from .. import micro  # noqa: F401  (registers the preset)

TOKEN = "<|image_1|>\n"


def picture(width, height, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


SIDES = [
    Side("a plain text"),
    Side(TOKEN + "a wide one", (picture(60, 20, 0),)),
    Side(TOKEN + "a tall one, with quite some more text to it than the others have", (picture(15, 47, 1),)),
    Side("<|image_1|>\n<|image_2|>\ntwo of them", (picture(33, 30, 2), picture(9, 12, 3))),
    Side("x"),
    Side(TOKEN + "a square", (picture(31, 32, 4),)),
]


UNITS = {"micro": [0, 3, 3, 2, 0, 5], "micro_qqmm": [0, 12, 12, 20, 0, 16], "micro_qwen2_vl": [0, 16, 12, 20, 0, 16]}
"""By preset, the image slots that the sides take."""


@pytest.fixture(scope="module", params=UNITS)
def preset(request):
    return request.param


@pytest.fixture(scope="module")
def most(preset):
    """Slots a row that hold any one of the sides."""
    return max(UNITS[preset])


@pytest.fixture(scope="module")
def tokenizer(preset):
    template = prompts.TEMPLATES[PRESETS[preset].model_type]
    return train_tokenizer([f"words system {template.system}"] * 2, 900, visual=template.tokens)


@pytest.fixture(scope="module")
def processor(preset, tokenizer):
    return Processor(PRESETS[preset], tokenizer, max_tokens=256)


@pytest.fixture(scope="module")
def model(preset, tokenizer):
    sized = PRESETS[preset].with_vocabulary(tokenizer.vocab_size, **tokenizer.visual_ids)
    return build(sized, rngs=nnx.Rngs(0))


@jax.jit
def run(model, inputs):
    return jax.vmap(model.embed)(inputs)


def embed(model, inputs):
    return np.asarray(run(model, inputs)).reshape(-1, model.config.text.hidden_size)


def test_embeddings_do_not_depend_on_neighbours_padding_or_groups(processor, model, most):
    examples = [processor.prepare(side) for side in SIDES]
    alone = np.concatenate([embed(model, processor.collate([e], Bucket(256, most), 1)) for e in examples])
    assert np.abs(np.subtract.outer(alone, alone)).max() > 0.1, "the sides must differ"
    for order, bucket, groups in [
        ([0, 1, 2, 3, 4, 5], Bucket(256, most), 1),
        ([5, 3, 1, 0, 2, 4], Bucket(256, most), 2),
        ([2, 4, 0, 5, 1, 3], Bucket(256, most + 1), 3),
    ]:
        together = embed(model, processor.collate([examples[i] for i in order], bucket, groups))
        np.testing.assert_allclose(together, alone[order], atol=2e-6)


def test_an_empty_row_is_finite_and_changes_nothing(processor, model, most):
    bucket = Bucket(256, most)
    examples = [processor.prepare(side) for side in SIDES[:3]]
    padded = embed(model, processor.collate([*examples, None], bucket, 1))
    np.testing.assert_allclose(padded[:3], embed(model, processor.collate(examples, bucket, 1)), atol=2e-6)
    assert np.isfinite(padded).all()


def test_measure_foretells_prepare(processor, preset):
    sizes = processor.measure(SIDES)
    examples = [processor.prepare(side) for side in SIDES]
    assert sizes.tokens.tolist() == [len(example.input_ids) for example in examples]
    assert sizes.units.tolist() == [example.images.units for example in examples]
    assert sizes.units.tolist() == UNITS[preset]


def test_refuses_what_does_not_fit(processor, most):
    examples = [processor.prepare(side) for side in SIDES]
    with pytest.raises(ValueError, match="do not fit"):
        processor.collate(examples, Bucket(16, most), 1)
    with pytest.raises(ValueError, match="do not fit"):
        processor.collate(examples, Bucket(256, 1), 1)


def test_long_text_loses_its_end_and_keeps_its_picture(processor, preset, tokenizer):
    short = Processor(PRESETS[preset], tokenizer, max_tokens=128)
    example = short.prepare(Side(TOKEN + "word " * 200, (picture(30, 30, 0),)))
    assert len(example.input_ids) == 128
    visual = example.input_ids == tokenizer.image_id
    assert visual.sum() == sum(example.images.tokens_per_image) > 0
    closing = processor.prepare(Side("x")).input_ids[-4:]
    np.testing.assert_array_equal(example.input_ids[-4:], closing)


def test_pictures_that_need_too_many_slots_shrink_and_no_others(preset, tokenizer, processor):
    most = {"micro": 4}.get(preset, 12)
    small = Processor(PRESETS[preset], tokenizer, max_tokens=256, max_units=most)
    before, after = processor.measure(SIDES), small.measure(SIDES)
    fits = before.units <= most
    assert 0 < fits.sum() < len(SIDES), "the sides must be of both kinds"
    np.testing.assert_array_equal(after.units[fits], before.units[fits])
    assert (after.units[~fits] > 0).all()
    assert (after.units[~fits] <= most).all()
    for side, tokens, units, fitted in zip(SIDES, *after, fits, strict=True):
        example = small.prepare(side)
        assert (len(example.input_ids), example.images.units) == (tokens, units), "as it was foretold"
        if fitted:
            np.testing.assert_array_equal(example.input_ids, processor.prepare(side).input_ids)
    assert small.fingerprint != processor.fingerprint, "an index kept beside the data is not the other's"


def test_pictures_that_leave_no_room_for_the_template_shrink(preset, tokenizer, processor):
    side = Side("", SIDES[-1].images)
    limit = int(processor.measure([side]).tokens[0]) - 1
    with pytest.raises(BadInputError, match=f"more than max_tokens = {limit}"):
        Processor(PRESETS[preset], tokenizer, max_tokens=limit).prepare(side)
    example = Processor(PRESETS[preset], tokenizer, max_tokens=limit, max_units=max(UNITS[preset])).prepare(side)
    assert len(example.input_ids) <= limit
    assert 0 < example.images.units < UNITS[preset][-1]


def test_pictures_that_fit_at_no_resolution_are_an_error(preset, tokenizer):
    small = Processor(PRESETS[preset], tokenizer, max_tokens=256, max_units=1)
    with pytest.raises(ImageError, match=r"at the lowest resolution the row's pictures take \d+ image"):
        small.measure(SIDES)
    with pytest.raises(ImageError, match="more than the 1 and"):
        small.prepare(SIDES[3])
