"""What an evaluation found (scores, means, and what each query retrieved) and how it is kept on disk.

A run holds, for `name` "results" (the trained model) and "results_untrained" (the same model before
training):

    <name>.json           the scores (`Results.to_json`): small, versioned, for people and programs to read
    <name>_details.jsonl  a line a subset (`SubsetDetails`): rank and similarities of each query, and examples

Schema of `<name>.json`, version 2:

    {"schema": "ega_jax.results", "version": 2,
     "suite": "mmeb", "complete": false,  (whether nothing is missing or short)
     "missing": ["OK-VQA", ...],  (subsets that were not evaluated)
     "short": {"GQA": "990 of 1000 queries", ...},  (subsets that were, but are smaller than was published)
     "dimensions": 3584,  (width of the vectors that were compared; absent from older files)
     "subsets": [{"name": "VOC2007", "meta_task": "classification", "distribution": "in",
                  "queries": 1000, "pool_size": 20.0, "chance": 0.05,
                  "hit@1": 0.8, "hit@1_standard_error": 0.0126, "hit@5": 0.97, "hit@10": 0.99, "mrr": 0.87,
                  "ndcg@5": 0.88,
                  "intervals": {"hit@1": [0.774, 0.824], ...},  (of each metric)
                  "items": "5d41..."}, ...],  (equal names, equal queries and candidates)
     "confidence": {"level": 0.95, "resamples": 2000, "seed": 0},  (how intervals were made)
     "environment": {"ega_jax": "0.1.0", "jax": "0.10.2", "devices": "8 x TPU v5p", ...},  (what it ran on)
     "means": {"all": {"subsets": 36, "chance": 0.1, "hit@1": 0.7, (and so on, as for a subset)},
               "in": ..., "out": ..., "classification": ..., "vqa": ..., "macro": ...}}

Version 1 had no "short", "intervals", "items" and "confidence"; it is still read. "environment"
may be absent. Shares are in [0, 1]. A mean
that would be over no subset is absent. Means are plain: every subset counts alike, whatever its number of
queries. "all" is MMEB's overall score; "macro" is the mean of the meta-task means, which some papers report
under the same word; the two differ.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ega_jax.errors import BadInputError
from ega_jax.evaluation.details import SubsetDetails
from ega_jax.files import write_whole

SCHEMA = "ega_jax.results"
VERSION = 2
READABLE = (1, 2)

METRICS = ("hit@1", "hit@5", "hit@10", "mrr", "ndcg@5")
"""The metrics of every subset and mean, by the names they have in files and tables."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of one subset, or a mean of several. All are shares in [0, 1].

    Attributes:
      metrics: the value of each of `METRICS`.
      standard_error: of hit@1; binomial for a subset, and for a mean what follows if subsets are independent.
      chance: hit@1 of a random order: the mean of 1 / pool size.
      intervals: bootstrap interval of each metric; empty where none was made.
    """

    metrics: dict[str, float]
    standard_error: float
    chance: float
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def hit_at_1(self) -> float:
        return self.metrics["hit@1"]

    def _to_dict(self) -> dict[str, Any]:
        first, *rest = METRICS
        return {
            "chance": self.chance,
            first: self.metrics[first],
            "hit@1_standard_error": self.standard_error,
            **{metric: self.metrics[metric] for metric in rest},
            **(
                {"intervals": {metric: list(ends) for metric, ends in self.intervals.items()}} if self.intervals else {}
            ),
        }

    @staticmethod
    def _from_dict(fields: dict[str, Any]) -> Scores:
        return Scores(
            metrics={metric: float(fields[metric]) for metric in METRICS},
            standard_error=float(fields["hit@1_standard_error"]),
            chance=float(fields["chance"]),
            intervals={
                metric: (float(low), float(high)) for metric, (low, high) in fields.get("intervals", {}).items()
            },
        )


@dataclasses.dataclass(frozen=True)
class SubsetResult:
    """Scores of one subset.

    Attributes:
      name: of the subset.
      meta_task: as in `ega_jax.data.records.SubsetInfo`.
      distribution: likewise.
      queries: number of queries.
      pool_size: mean number of distinct candidates of a query.
      scores: the scores.
      items: names its queries and candidates (`ega_jax.evaluation.content.subset_fingerprint`); "" where not known.
    """

    name: str
    meta_task: str
    distribution: str
    queries: int
    pool_size: float
    scores: Scores
    items: str = ""


@dataclasses.dataclass(frozen=True)
class MeanResult:
    """A plain mean over subsets (for "macro": over meta-tasks), and how many subsets are in it."""

    subsets: int
    scores: Scores


@dataclasses.dataclass(frozen=True)
class Confidence:
    """How intervals were made.

    Attributes:
      level: share of bootstrap samples within an interval.
      resamples: bootstrap samples.
      seed: decides them.
    """

    level: float
    resamples: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that one evaluation found.

    Attributes:
      subsets: scores of each subset, in the order they were given.
      means: "all", "in", "out", each meta-task present, and "macro" over these meta-tasks.
      suite: what was evaluated, e.g. "mmeb" or "glyphs".
      missing: subsets of the suite that were not evaluated; the means leave them out, so they are not the
        suite's scores.
      details: what each query retrieved; empty where only the scores were read.
      dimensions: width of the vectors that were compared; None where it is not known.
      short: subsets that were evaluated but are smaller than the suite's, and what they lack.
      confidence: how intervals were made; None where there are none.
      environment: versions and devices of the evaluation; empty where they are not known.
    """

    subsets: tuple[SubsetResult, ...]
    means: dict[str, MeanResult]
    suite: str = "custom"
    missing: tuple[str, ...] = ()
    details: tuple[SubsetDetails, ...] = ()
    dimensions: int | None = None
    short: dict[str, str] = dataclasses.field(default_factory=dict)
    confidence: Confidence | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every subset of the suite was evaluated whole."""
        return not self.missing and not self.short

    def to_json(self) -> str:
        """Returns the scores as JSON text (schema at the top of this file); details are not part of it."""
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "suite": self.suite,
            "complete": self.complete,
            "missing": list(self.missing),
            "short": self.short,
            **({} if self.dimensions is None else {"dimensions": self.dimensions}),
            "subsets": [
                {
                    "name": subset.name,
                    "meta_task": subset.meta_task,
                    "distribution": subset.distribution,
                    "queries": subset.queries,
                    "pool_size": subset.pool_size,
                    **subset.scores._to_dict(),
                    **({"items": subset.items} if subset.items else {}),
                }
                for subset in self.subsets
            ],
            **({"confidence": dataclasses.asdict(self.confidence)} if self.confidence else {}),
            **({"environment": self.environment} if self.environment else {}),
            "means": {name: {"subsets": mean.subsets, **mean.scores._to_dict()} for name, mean in self.means.items()},
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, source: Path | str = "results") -> Results:
        """Returns the scores that `to_json` wrote.

        Args:
          text: the JSON text.
          source: where it is from, for error messages.

        Raises:
          BadInputError: the text is not JSON, is not such a file, or was written by a later version.
        """
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInputError(f"{source}: not JSON ({error}); run the evaluation again") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise BadInputError(f'{source}: not a results file (no "schema": "{SCHEMA}")')
        if document.get("version") not in READABLE:
            raise BadInputError(
                f"{source}: version {document.get('version')}, but this reader knows versions up to {VERSION}; "
                "run the evaluation again"
            )
        try:
            subsets = tuple(
                SubsetResult(
                    name=str(fields["name"]),
                    meta_task=str(fields["meta_task"]),
                    distribution=str(fields["distribution"]),
                    queries=int(fields["queries"]),
                    pool_size=float(fields["pool_size"]),
                    scores=Scores._from_dict(fields),
                    items=str(fields.get("items", "")),
                )
                for fields in document["subsets"]
            )
            means = {
                name: MeanResult(int(fields["subsets"]), Scores._from_dict(fields))
                for name, fields in document["means"].items()
            }
            suite, missing = str(document["suite"]), tuple(map(str, document["missing"]))
            dimensions = int(document["dimensions"]) if "dimensions" in document else None
            short = {str(name): str(what) for name, what in document.get("short", {}).items()}
            confidence = Confidence(**document["confidence"]) if "confidence" in document else None
            environment = {str(name): str(what) for name, what in document.get("environment", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInputError(f"{source}: damaged results ({type(error).__name__}: {error})") from None
        return Results(
            subsets,
            means,
            suite,
            missing,
            dimensions=dimensions,
            short=short,
            confidence=confidence,
            environment=environment,
        )

    def save(self, directory: Path | str, name: str = "results") -> Path:
        """Writes `<name>.json`, and `<name>_details.jsonl` where there are details; returns the former.

        Each file appears whole or not at all; the scores come last: where they are, their details are.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        details_path, path = directory / f"{name}_details.jsonl", directory / f"{name}.json"
        if self.details:
            write_whole(details_path, "".join(details.to_json() + "\n" for details in self.details))
        else:
            details_path.unlink(missing_ok=True)  # of an earlier evaluation, they would belie these scores
        write_whole(path, self.to_json())
        return path

    @staticmethod
    def load(path: Path | str) -> Results:
        """Reads what `save` wrote; details are empty where their file is absent.

        Raises:
          BadInputError: a file is damaged or of a later version.
          FileNotFoundError: there is no such file.
        """
        path = Path(path)
        results = Results.from_json(path.read_text(encoding="utf-8", errors="replace"), source=path)
        details_path = path.with_name(f"{path.stem}_details.jsonl")
        if not details_path.exists():
            return results
        try:
            # Not splitlines: texts may hold characters that only Python takes for line ends.
            lines = details_path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            details = tuple(SubsetDetails.from_json(line) for line in lines)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInputError(f"{details_path}: damaged details ({type(error).__name__}: {error})") from None
        return dataclasses.replace(results, details=details)
