"""Batches are pure, complete, laid out as the loss expects them, and resumable."""

import jax
import numpy as np
import pytest

from ega_jax.data.buckets import Bucket, Buckets
from ega_jax.data.mmeb import find_subsets, read_train
from ega_jax.data.pipeline import TrainingBatches, global_groups, prefetched
from ega_jax.data.processor import Processor
from ega_jax.data.records import BadRecordError
from ega_jax.data.tokenizer import train_tokenizer
from ega_jax.errors import BadInputError
from ega_jax.models import PRESETS

from ..colours import write_colours
from ..micro import config

BUCKETS = Buckets(config.data.token_buckets, config.data.image_buckets)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours") / "data")


@pytest.fixture(scope="module")
def subsets(directory):
    return [read_train(directory, info.name) for info in find_subsets(directory, "train")]


@pytest.fixture(scope="module")
def processor(subsets):
    texts = [record.query.text for subset in subsets for record in subset]
    return Processor(PRESETS["micro"], train_tokenizer(texts, 280), max_tokens=BUCKETS.tokens[-1])


def batches(subsets, processor, **changes):
    options = {"steps": 24, "batch_size": 16, "sub_batch_size": 8, "seed": 1} | changes
    return TrainingBatches(subsets, processor, BUCKETS, **options)


def with_negatives(source):
    """A step whose rows carry explicit negatives."""
    return next(step for step in range(len(source)) if source.plan(step).negatives)


def test_a_batch_is_a_pure_function_of_the_step(subsets, processor):
    first, second = batches(subsets, processor), batches(subsets, processor)
    order = list(range(12))
    ahead = {step: first[step] for step in order}
    for step in reversed(order):
        jax.tree.map(np.testing.assert_array_equal, ahead[step], second[step])


def test_processes_prepare_parts_of_one_global_batch(subsets, processor):
    whole = batches(subsets, processor, groups=4)
    parts = [batches(subsets, processor, groups=4, local_groups=here) for here in ([0, 2], [1, 3])]
    for step in (0, with_negatives(whole)):
        for side in ("queries", "targets"):
            for name, array in whole[step][side].items():
                joined = np.stack([part[step][side][name] for part in parts], 1).reshape(array.shape)
                np.testing.assert_array_equal(array, joined)
        for name in ("query_ids", "target_ids", "positives", "target_mask"):
            for part in parts:
                np.testing.assert_array_equal(whole[step][name], part[step][name])


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_positives_and_negatives_stand_where_the_labels_say(subsets, processor, groups):
    source = batches(subsets, processor, groups=groups)
    step = with_negatives(source)
    plan, batch, rows = source.plan(step), source[step], source._rows(step)
    flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in batch["targets"].items() if name != "tiles"}
    assert len(flat["input_ids"]) == len(plan.target_mask) == 16 * (1 + plan.negatives)
    decoded = flat["input_ids"]
    records = [subsets[s][r] for s, r in zip(rows.subset.tolist(), rows.row.tolist(), strict=True)]
    for row, record in enumerate(records):
        expected = processor.prepare(record.positive).input_ids
        np.testing.assert_array_equal(decoded[plan.positives[row]][: len(expected)], expected)
    looked_at = source.sides_of(step)
    assert looked_at.queries == [record.query for record in records]
    assert [looked_at.targets[place] for place in plan.positives] == [record.positive for record in records]
    assert [side is not None for side in looked_at.targets] == plan.target_mask.tolist()
    assert looked_at.subsets == [subsets[place].info.name for place in rows.subset]
    for side, ids in zip(looked_at.targets, decoded, strict=True):
        if side is not None:
            expected = processor.prepare(side).input_ids
            np.testing.assert_array_equal(ids[: len(expected)], expected)
    real = sum(len(record.negatives) for record in records)
    assert real > 0
    assert plan.target_mask.sum() == 16 + real
    assert plan.target_mask[plan.positives].all()


def test_rows_with_one_right_answer_are_not_negatives_of_each_other(subsets, processor):
    source = batches(subsets, processor)
    name = next(i for i, subset in enumerate(subsets) if subset.info.name == "Name")
    step = next(step for step in range(24) if name in source._rows(step).subset)
    plan, rows = source.plan(step), source._rows(step)
    texts = [subsets[s][r].positive.text for s, r in zip(rows.subset.tolist(), rows.row.tolist(), strict=True)]
    same_text = np.equal.outer(texts, texts)
    same_id = np.equal.outer(plan.query_ids, plan.target_ids[plan.positives])
    assert same_text.sum() > len(texts), "the batch must hold duplicates for this to test anything"
    np.testing.assert_array_equal(same_id, same_text)


def test_buckets_hold_their_rows_and_come_from_the_list(subsets, processor):
    source = batches(subsets, processor, groups=4)
    for step in range(12):
        plan, batch = source.plan(step), source[step]
        for bucket, side in ((plan.query_bucket, "queries"), (plan.target_bucket, "targets")):
            groups, rows, length = batch[side]["input_ids"].shape
            assert (length, batch[side]["tiles"].shape[1]) == (bucket.tokens, rows * bucket.units)
            assert bucket.tokens in BUCKETS.tokens
            assert bucket.units in BUCKETS.units
            assert groups == 4
            assert batch[side]["attention_mask"].any(-1).all()


@pytest.mark.parametrize("start", [0, 3, 7, 8])
def test_prefetching_starts_where_it_is_told_and_changes_nothing(subsets, processor, start):
    source = batches(subsets, processor, steps=8)
    iterator = prefetched(source, start=start, threads=3, prefetch=4)
    ahead = list(iterator)
    iterator.close()
    assert len(ahead) == 8 - start
    for step, batch in enumerate(ahead, start):
        jax.tree.map(np.testing.assert_array_equal, batch, source[step])


def test_a_picture_that_breaks_later_names_its_row(directory, tmp_path):
    broken = write_colours(tmp_path / "data", rows=8)
    subset = read_train(broken, "Find")
    path = broken / "images" / subset[3].positive.images[0].name
    processor = Processor(PRESETS["micro"], train_tokenizer(["Find"], 280), max_tokens=128)
    source = TrainingBatches([subset], processor, BUCKETS, steps=2, batch_size=8, sub_batch_size=8, seed=0)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BadRecordError, match=r"original\.jsonl, row 3, field 'pos_image_path'.*" + path.name):
        source[0]


def test_bucket_fit():
    buckets = Buckets((8, 16), (0, 2, 4))
    lengths = np.array([3, 9, 2, 8])
    assert buckets.fit(lengths, np.array([0, 0, 0, 0])) == Bucket(16, 0)
    assert buckets.fit(lengths[[0, 2]], np.array([0, 3])) == Bucket(8, 2)
    assert buckets.fit(lengths, np.array([0, 0, 4, 3]), groups=2) == Bucket(16, 4), "the fullest group decides"
    assert buckets.fit(np.array([99]), np.array([0])) == Bucket(16, 0), "too long a text is cut, not refused"
    with pytest.raises(BadInputError, match=r"5 image tiles.*image_buckets"):
        buckets.fit(lengths, np.array([5, 5, 5, 5]))


def test_global_groups():
    assert global_groups(8, 64, None) == 8
    assert global_groups(8, 64, 4) == 16
    with pytest.raises(BadInputError, match="does not divide over 3 devices"):
        global_groups(3, 64, None)
    with pytest.raises(BadInputError, match="chunk_size 5"):
        global_groups(8, 64, 5)


def test_steps_keep_to_the_number_of_programs_and_pad_the_same_rows(subsets, processor):
    free = batches(subsets, processor)
    bound = batches(subsets, processor, max_programs=2)
    shapes = [{source.plan(step).program for step in range(24)} for source in (free, bound)]
    assert len(shapes[0]) > 2 >= len(shapes[1])
    for step in (0, 5):
        one, other = free[step], bound[step]
        for side in ("queries", "targets"):
            length = one[side]["input_ids"].shape[2]
            np.testing.assert_array_equal(one[side]["input_ids"], other[side]["input_ids"][:, :, :length])
            assert not other[side]["attention_mask"][:, :, length:].any()
    assert "2 programs at most" in bound.padding
    waste = [source._padding[0] for source in (free, bound)]
    assert 0 < waste[0] <= waste[1] < 1


@pytest.mark.parametrize("length", [{"steps": 9}, {"steps": None, "epochs": 2}], ids=["steps", "epochs"])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_run_goes_on_exactly_with_other_threads_and_processes(subsets, processor, processes, length):
    """A state is a step: one process on one thread, then so many on three each, from the middle on."""
    start, groups = 5, 4
    whole = batches(subsets, processor, groups=groups, **length)
    expected = list(prefetched(whole, start=0, threads=1, prefetch=1))
    assert len(expected) == len(whole) > start + 1
    here = np.split(np.arange(groups), processes)
    parts = [batches(subsets, processor, groups=groups, local_groups=its, **length) for its in here]
    for resumed_at in (0, start):
        resumed = [list(prefetched(part, start=resumed_at, threads=3, prefetch=4)) for part in parts]
        for batch, *local in zip(expected[resumed_at:], *resumed, strict=True):
            for side in ("queries", "targets"):
                for name, array in batch[side].items():
                    assert array.tobytes() == np.concatenate([part[side][name] for part in local]).tobytes()
            for name in batch.keys() - {"queries", "targets"}:
                assert all(batch[name].tobytes() == part[name].tobytes() for part in local)


def test_an_epoch_holds_every_row_and_empty_places_hold_none(subsets, processor):
    few = [subset.take(range(13)) for subset in subsets]
    source = batches(few, processor, steps=None, epochs=1, groups=2)
    assert len(source) == len(few)
    for step in range(len(source)):
        batch, plan = source[step], source.plan(step)
        assert batch["weights"].sum() == 13 == len(source.rows_of(step))
        np.testing.assert_array_equal(batch["weights"] > 0, plan.queries.item >= 0)
        lengths = batch["queries"]["attention_mask"].sum(-1).reshape(-1)
        assert (lengths[batch["weights"] == 0] == 1).all(), "one real token, so that the embedding is finite"
        assert (lengths[batch["weights"] > 0] > 1).all()
        np.testing.assert_array_equal(plan.target_mask[plan.positives], batch["weights"] > 0)
