"""The model inside the real `mteb` package: its tasks, on data of ours, give the scores that our vectors have."""

import dataclasses

import mteb
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from PIL import Image

from ega_jax import Embedder
from ega_jax.errors import BadInputError
from ega_jax.mteb_encoder import MtebEncoder
from ega_jax.training.setup import make_setup, starting_parameters, write_model_directory

from .micro import config

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("one_device")]

WORDS = ("red", "green", "blue", "dark red", "light green", "", "a rather long name of a colour", "blue or green")
INSTRUCTION = "Find the picture of"
FACTS = {
    "reference": "https://example.org",
    "dataset": {"path": "local", "revision": "1"},
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": ("2026-01-01", "2026-01-01"),
    "dialect": [],
    "domains": [],
    "task_subtypes": [],
    "license": "cc0-1.0",
    "annotations_creators": "derived",
    "sample_creation": "created",
    "bibtex_citation": "",
    "description": "Made by the test.",
}


def picture(seed):
    generator = np.random.default_rng(seed)
    width, height = generator.integers(12, 32, 2)
    darkest = 0 if seed % 2 else 200
    return Image.fromarray(generator.integers(darkest, darkest + 56, (height, width, 3), np.uint8))


PICTURES = [picture(seed) for seed in range(len(WORDS))]
NAMED = [number for number, word in enumerate(WORDS) if word]


class Retrieval(AbsTaskRetrieval):
    """Word n is answered by document n, which `documents` makes."""

    def load_data(self, num_proc=None, **_):
        queries = [{"id": f"q{n}", "text": WORDS[n]} for n in NAMED]
        corpus = [{"id": f"d{n}", **self.document(n)} for n in range(len(WORDS))]
        relevant = {f"q{n}": {f"d{n}": 1} for n in NAMED}
        split = RetrievalSplitData(
            queries=Dataset.from_list(queries),
            corpus=Dataset.from_list(corpus),
            relevant_docs=relevant,
            top_ranked=None,
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class Texts(Retrieval):
    metadata = TaskMetadata(
        **FACTS, name="Texts", type="Retrieval", category="t2t", main_score="ndcg_at_10", modalities=["text"]
    )

    def document(self, n):
        return {"text": WORDS[-n - 1].upper(), "title": ""}  # one of them empty


class Pictures(Retrieval):
    metadata = TaskMetadata(
        **FACTS,
        name="Pictures",
        type="Any2AnyRetrieval",
        category="t2i",
        main_score="ndcg_at_10",
        modalities=["text", "image"],
        prompt={"query": INSTRUCTION},
    )

    def document(self, n):
        return {"image": PICTURES[n]}


class Classes(AbsTaskClassification):
    metadata = TaskMetadata(
        **FACTS, name="Classes", type="ImageClassification", category="i2c", main_score="accuracy", modalities=["image"]
    )
    input_column_name = "image"
    n_experiments = 1
    samples_per_label = 4

    def load_data(self, num_proc=None, **_):
        rows = {"image": PICTURES, "label": [n % 2 for n in range(len(PICTURES))]}
        self.dataset = DatasetDict({split: Dataset.from_dict(rows) for split in ("train", "test")})
        self.data_loaded = True


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    experiment = dataclasses.replace(config, data=dataclasses.replace(config.data, image_buckets=(0, 3, 5)))
    directory = tmp_path_factory.mktemp("micro") / "model"
    write_model_directory(experiment, directory, lambda: [*WORDS, INSTRUCTION, "Represent the given image."])
    setup = make_setup(experiment, directory)
    return Embedder.of(setup, starting_parameters(experiment, setup))


def run(encoder, task, tmp_path):
    results = mteb.evaluate(
        encoder,
        task,
        cache=mteb.ResultCache(cache_path=tmp_path),
        encode_kwargs={"batch_size": 8},
        show_progress_bar=False,
        co2_tracker=False,
    )
    (scores,) = results.task_results[0].scores["test"]
    return scores


def ndcg_at_10(queries, documents):
    """Each query has one answer, the document of its number: of unit rows, in float64."""
    similarities = queries.astype(np.float64) @ documents.astype(np.float64).T
    ranks = [int((row > row[n]).sum()) for row, n in zip(similarities, NAMED, strict=True)]
    return np.mean([1 / np.log2(2 + rank) if rank < 10 else 0 for rank in ranks])


def test_text_retrieval_scores_what_the_vectors_do(embedder, tmp_path):
    scores = run(MtebEncoder("runs/micro", "1", embedder=embedder, instructions=False), Texts(), tmp_path)
    queries = embedder.encode([{"text": WORDS[n]} for n in NAMED])
    documents = embedder.encode([{"text": WORDS[-n - 1].upper() or " "} for n in range(len(WORDS))])
    assert scores["ndcg_at_10"] == pytest.approx(ndcg_at_10(queries, documents), abs=1e-5)
    assert 0 < scores["ndcg_at_10"] < 1


def test_pictures_are_found_by_words_with_the_instruction_before_the_words_alone(embedder, tmp_path):
    documents = embedder.encode([{"image": image} for image in PICTURES])
    instructed = embedder.encode([{"text": f"{INSTRUCTION} {WORDS[n]}"} for n in NAMED])
    bare = embedder.encode([{"text": WORDS[n]} for n in NAMED])
    for instructions, queries in ((True, instructed), (False, bare)):
        encoder = MtebEncoder("runs/micro", str(instructions), embedder=embedder, instructions=instructions)
        scores = run(encoder, Pictures(), tmp_path)
        assert scores["ndcg_at_10"] == pytest.approx(ndcg_at_10(queries, documents), abs=1e-5)


def test_pictures_are_classified(embedder, tmp_path):
    scores = run(MtebEncoder("runs/micro", "1", embedder=embedder), Classes(), tmp_path)
    assert scores["accuracy"] == 1  # dark and bright, and the rows that it learned from


def test_many_batches_keep_their_order_and_pictures_stand_before_texts(embedder, monkeypatch):
    monkeypatch.setattr("ega_jax.mteb_encoder.WINDOW", 2)
    batches = [{"text": [WORDS[n] or "none"], "image": [PICTURES[n]]} for n in range(len(WORDS))]
    encoder = MtebEncoder("runs/micro", embedder=embedder, instructions=False, dimensions=8)
    vectors = encoder.encode(
        batches,
        task_metadata=Pictures.metadata,
        hf_split="test",
        hf_subset="default",
        prompt_type=mteb.types.PromptType.query,
        batch_size=1,
        show_progress_bar=False,
    )
    items = [{"text": WORDS[n] or "none", "image": PICTURES[n]} for n in range(len(WORDS))]
    np.testing.assert_allclose(vectors, embedder.encode(items, dimensions=8), rtol=0, atol=2e-6)


def test_what_mteb_is_told_of_the_model(embedder):
    meta = MtebEncoder("runs/micro", "step 12", embedder=embedder).mteb_model_meta
    assert (meta.name, meta.revision, meta.modalities) == ("ega-jax/micro", "step 12", ["text", "image"])
    assert meta.embed_dim == embedder.width
    assert meta.n_parameters == sum(leaf.size for leaf in embedder.parameters.values())


def test_what_it_cannot_do_is_refused(embedder):
    with pytest.raises(BadInputError, match="JAX_PLATFORMS"):
        MtebEncoder("runs/micro", device="cuda:1", embedder=embedder)
    with pytest.raises(BadInputError, match="runs/nowhere"):
        MtebEncoder("runs/nowhere")
    encoder = MtebEncoder("runs/micro", embedder=embedder)
    with pytest.raises(BadInputError, match="not audio"):
        encoder.encode([{"audio": [1]}], task_metadata=Pictures.metadata, hf_split="test", hf_subset="default")
