"""The study of losses compares what it says it compares."""

import functools
import importlib
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def study_modules():
    """`benchmarks/` on the path, as for the script that lies there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module


@pytest.fixture(scope="module")
def training(study_modules):
    return study_modules("frozen.training")


@pytest.fixture(scope="module")
def world(study_modules):
    """Sixty pairs of equal features, two of which share each target, in three groups."""
    worlds = study_modules("frozen.worlds")
    random = np.random.default_rng(0)
    targets = random.standard_normal((30, worlds.WIDTH)).astype(np.float32)
    rows = np.repeat(np.arange(30), 2)
    queries = targets[rows] + 0.05 * random.standard_normal((60, worlds.WIDTH)).astype(np.float32)
    pairs = np.stack([np.arange(60), rows], axis=1).astype(np.int32)
    asked = worlds.Questions(pairs[:, 0], np.arange(30, dtype=np.int32), rows.astype(np.int32))
    negatives = (rows[:, None] + np.array([1, 2])).astype(np.int32) % 30
    groups = np.repeat(np.arange(3), 20).astype(np.int32)
    return worlds.World("pairs", queries, targets, pairs, groups, negatives, asked, asked, asked)


def test_the_control_is_ega_without_the_one_in_its_weights(study_modules):
    control_loss = study_modules("frozen.methods").control_loss
    scalars = {"temperature": 0.05, "alpha": 7.0, "beta": 2.5}
    queries, targets = (jax.random.normal(jax.random.key(seed), (12, 8)) for seed in (0, 1))
    own = jax.random.normal(jax.random.key(2), (12, 3, 8))
    ids = jnp.arange(12) // 2

    def margin_in_the_gradient(queries, targets, own):
        """softmax(s/τ + log β + α d), d held constant, against one-hot positives; in the form of ega.py's docstring."""
        queries, targets, own = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (queries, targets, own))
        s = jnp.concatenate([queries @ targets.T, jnp.einsum("nd,nkd->nk", queries, own)], axis=1)
        positive = jnp.eye(12, 15, dtype=bool)
        kept = positive | jnp.pad(ids[:, None] != ids, ((0, 0), (0, 3)), constant_values=True)
        log_weight = jnp.log(2.5) + 7.0 * (s - jnp.diagonal(s)[:, None])
        logits = jnp.where(kept, s / 0.05 + jnp.where(positive, 0, log_weight), -jnp.inf)
        gradient = jax.lax.stop_gradient((jax.nn.softmax(logits, axis=1) - positive) / (0.05 * 12))
        return jnp.sum(gradient * s)

    wanted = jax.jit(jax.grad(margin_in_the_gradient, (0, 1, 2)))(queries, targets, own)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradients(queries, targets, own):
        return control_loss(queries, targets, scalars, negatives=own, query_ids=ids, target_ids=ids)

    found = gradients(queries, targets, own)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


def test_all_methods_try_the_same_temperatures_and_rates(study_modules):
    methods = study_modules("frozen.methods").METHODS
    study = runpy.run_path(str(ROOT / "configs/evidence/frozen.py"))["study"]
    first = [(s["learning_rate"], s["temperature"]) for s in study.settings("info_nce")]
    assert len(set(first)) == study.trials
    ones = {"learning_rate": 1.0, "temperature": 1.0}
    for name, method in methods.items():
        tried = study.settings(name)
        assert [(s["learning_rate"], s["temperature"]) for s in tried] == first
        assert all(set(s) == {"learning_rate", *method.tuned} for s in tried)
        assert all(low <= s[key] <= high for s in tried for key, (low, high) in study.space.items() if key in s)
        refined = study.refine(name, tried[3])
        factors = np.array([[s[key] / tried[3][key] for key in ("learning_rate", "temperature")] for s in refined])
        assert factors.shape == (study.refined, 2)
        np.testing.assert_allclose(factors, np.array([list(s.values()) for s in study.refine("info_nce", ones)]))
        assert factors.min() < 0.75 < 1.33 < factors.max()
        assert np.abs(np.log(factors)).max() <= np.log(study.spread)


def test_seeds_that_choose_do_not_test(study_modules):
    study = runpy.run_path(str(ROOT / "configs/evidence/frozen.py"))["study"]
    with pytest.raises(ValueError, match=r"seeds \[1\] would both choose settings and test them"):
        study_modules("dataclasses").replace(study, test_seeds=(1, 10))


def test_batches_follow_their_condition(training, world):
    batches, pairs = training.plan(world, training.Condition(batch=20, steps=6), seed=3)
    assert np.array_equal(pairs, world.pairs)
    for epoch in (batches[:3], batches[3:]):  # sixty pairs make three batches of twenty
        assert sorted(epoch.ravel()) == list(range(60))

    batches, _ = training.plan(world, training.Condition(batch=20, steps=6, homogeneous=True), seed=3)
    for part in batches.reshape(-1, 5):
        assert len(set(world.groups[part])) == 1
        assert len(set(part)) == 5

    batches, _ = training.plan(world, training.Condition(batch=20, steps=6, twice=True), seed=3)
    for batch in batches:
        _, counts = np.unique(world.pairs[batch, 1], return_counts=True)
        assert set(counts) == {2}

    _, pairs = training.plan(world, training.Condition(batch=20, steps=1, noise=0.5), seed=3)
    assert 10 < np.sum(pairs[:, 1] != world.pairs[:, 1]) < 40
    assert np.array_equal(pairs[:, 0], world.pairs[:, 0])


def test_runs_of_a_seed_are_alike_whatever_they_run_beside(training, world):
    condition = training.Condition(batch=20, steps=30, negatives=2)
    settings = [{"learning_rate": 1e-9, "temperature": 0.1}, {"learning_rate": 1e-2, "temperature": 0.1}]
    settings = [{**each, "alpha": 5.0, "beta": beta} for each in settings for beta in (0.0, 4.0)]
    scores = training.train(world, condition, "ega_normalized", settings, [4, 5])
    assert scores["validation"].shape == (4, 2)
    assert scores["validation"][2:].min() > 0.95 > scores["validation"][:2].max()
    # More runs than go at once, and the last part filled up: whom a run is trained with changes nothing.
    again = training.train(world, condition, "ega_normalized", settings[::-1] + settings[:1], [5])
    assert np.array_equal(again["loss"][:4, 0], scores["loss"][::-1, 1])
    # EGA's value is InfoNCE's: a run that does not move has the same loss.
    np.testing.assert_allclose(scores["loss"][1], scores["loss"][0], rtol=1e-6)
    assert (scores["gradient_norm"][1] > scores["gradient_norm"][0]).all()


def test_ties_are_not_hits(training):
    vectors = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [jnp.nan, 0.0]])
    everywhere = (jnp.arange(4), jnp.arange(4), jnp.arange(4))
    apart = (jnp.array([2]), jnp.array([0, 2]), jnp.array([1]))
    measures = jax.jit(training._measure)({"in_distribution": everywhere, "validation": apart}, vectors, vectors)
    assert measures["in_distribution"] == 0.25  # the third alone; NaN compares with nothing
    assert measures["validation"] == 1


def test_the_page_is_drawn_from_its_records(study_modules):
    page, evidence = study_modules("evidence_page"), study_modules("evidence")
    rows = evidence.Records(ROOT / "docs/benchmarks/evidence.jsonl").rows
    study = runpy.run_path(str(ROOT / "configs/evidence/frozen.py"))["study"]
    assert page.render(rows, study) == (ROOT / "docs/evidence.md").read_text()


def test_differences_are_within_a_seed(study_modules):
    page = study_modules("evidence_page")

    def row(method, scores):
        tested = {"in_distribution": scores, "out_of_distribution": scores}
        return {"part": "frozen", "world": "names", "condition": "plain", "method": method, "tested": tested}

    # Seeds differ by far more than methods do: only within a seed does it show.
    rows = [row("info_nce", [0.1, 0.5, 0.9]), row("control", [0.11, 0.52, 0.93])]
    gains = page.Evidence(json.loads(json.dumps(rows))).gains("control", worlds=["names"])
    np.testing.assert_allclose(gains, [1, 2, 3])
    assert page.gain(gains) == "**+2.0 ± 0.6**"
    assert page.gain(gains - 2) == "+0.0 ± 0.6"
