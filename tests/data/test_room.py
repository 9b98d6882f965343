"""A row whose pictures do not fit the largest buckets is named before the first step, whichever side they are on."""

import re

import numpy as np
import pytest
from PIL import Image

from ega_jax.data.buckets import Buckets
from ega_jax.data.mmeb import read_train
from ega_jax.data.pipeline import TrainingBatches
from ega_jax.data.processor import Processor
from ega_jax.data.records import BadRecordError, Side
from ega_jax.data.tokenizer import train_tokenizer
from ega_jax.models import PRESETS

from .. import micro
from .mmeb_rows import TOKEN, write

assert micro.config  # importing it adds the preset
LONG = "word " * 500
SMALL, LARGE = "images/small.png", "images/large.png"  # 1 block and 9, and the image row before them
SIDES = ["qry_image_path", "pos_image_path", "neg_image_path"]


def write_rows(data, field):
    """Three rows; the second has a large picture in `field`, the third a long text beside a small one."""
    for path, side in ((SMALL, 16), (LARGE, 48)):
        Image.fromarray(np.full((side, side, 3), 99, np.uint8)).save(data / path)
    query, positive, negative = (LARGE if side == field else SMALL for side in SIDES)
    rows = [
        (f"{TOKEN} a", SMALL, TOKEN, SMALL, [TOKEN], [SMALL]),
        (f"{TOKEN} b", query, TOKEN, positive, [TOKEN], [negative]),
        (f"{TOKEN} {LONG}", SMALL, TOKEN, SMALL, [TOKEN], [SMALL]),
    ]
    return write(data, "GQA", "original", rows)


def batches(data, picture_tokens, units, **options):
    """Batches whose largest token bucket has so many places beside the template."""
    tokenizer = train_tokenizer([LONG], 280)

    def processor(max_tokens):
        return Processor(PRESETS["micro_qqmm"], tokenizer, max_tokens=max_tokens, system="")

    (template,) = processor(1).measure([Side(TOKEN, (data / SMALL,))]).tokens - 2
    longest = int(template) + picture_tokens
    buckets = Buckets((longest,), units, "image patches")
    options = {"steps": 2, "batch_size": 2, "sub_batch_size": 2, "seed": 0} | options
    return TrainingBatches([read_train(data, "GQA")], processor(longest), buckets, **options)


@pytest.mark.parametrize("field", SIDES)
@pytest.mark.parametrize(
    ("picture_tokens", "units", "reason"),
    [
        (99, (0, 16, 32), "36 image patches a row, more than the largest of data.image_buckets (0, 16, 32): add"),
        (9, (0, 64), "the row's pictures take 10 tokens, more than the 9 that "),
    ],
)
def test_the_row_is_named(data, field, picture_tokens, units, reason):
    file = write_rows(data, field)
    with pytest.raises(BadRecordError, match=f"^{re.escape(f'{file}, row 1, field {field!r}: {reason}')}"):
        batches(data, picture_tokens, units)
    if field == "neg_image_path":
        assert len(batches(data, picture_tokens, units, negatives_per_query=0)) == 2, "they are not trained on"


def test_pictures_that_just_fit_are_let_through_and_a_long_text_is_cut(data):
    write_rows(data, "qry_image_path")
    source = batches(data, 10, (0, 36))
    queries = [source[step]["queries"] for step in range(len(source))]
    longest = queries[0]["input_ids"].shape[-1]
    assert max(batch["attention_mask"].sum(-1).max() for batch in queries) == longest
