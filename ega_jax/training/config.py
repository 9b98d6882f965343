"""The settings of a training run: frozen dataclasses, checked when they are built.

An experiment is a Python file in `configs/` that binds `config = TrainConfig(...)`; the command line overrides any
field (`ega-jax train configs/glyphs.py --optimizer.learning-rate 1e-3`), and a run directory keeps the result as
`config.json`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import runpy
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ega_jax.errors import BadInputError
from ega_jax.losses import DEFAULTS
from ega_jax.models.lora_config import LoraConfig
from ega_jax.models.recipe import check_matryoshka_dimensions

_NO_ADAPTERS = LoraConfig(rank=0)


def _positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not (value > 0 and math.isfinite(value)):
            raise BadInputError(f"{name} must be positive, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The backbone and how it computes."""

    preset: str = "llava_onevision_7b"
    """A name from `ega_jax.models.PRESETS`; ignored where `weights` brings its own configuration."""
    weights: Path | None = None
    """A model directory (config.json, tokenizer.json, *.safetensors) to start from; None starts from random weights."""
    vocab_size: int = 2048
    """Entries of the tokenizer that is trained on the data when `weights` is None."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the matrix products; parameters, norms, softmax and similarities are float32 whatever it is."""
    remat: Literal["none", "dots", "full"] = "full"
    """What the backward pass recomputes: nothing, all but matrix products, or every layer."""
    attention: Literal["auto", "xla", "by_heads", "chunked", "cudnn", "splash"] = "auto"
    """The attention backend; "auto" goes by the platform (see `ega_jax.models.attention`)."""
    system_prompt: str | None = None
    """The system turn of every prompt, "" leaves it out; None is that of the recipe.json of `weights`, or the
    backbone's own."""
    max_tiles: int | None = None
    """Most tiles that a picture is cut into beside its base tile; None is the backbone's own limit."""
    base_only: bool = False
    """Only the base tile of each picture: the cheapest resolution. The recipe.json of `weights` may ask for it too."""
    max_pixels: int | None = None
    """Most pixels of a picture after resizing, with a backbone that keeps its shape (QQMM, Qwen2-VL); None is the
    backbone's own limit."""
    frozen: tuple[str, ...] = ()
    """Regular expressions; a parameter whose path matches one from its start is not trained: ("vision_tower/",)."""
    trained: tuple[str, ...] = ()
    """Regular expressions for those that are trained; none is all of them, or none beside the adapters of `lora`."""
    frozen_dtype: Literal["bfloat16", "float32"] | None = None
    """Type in which matrices that are not trained are held; None is `dtype`, to which they would be cast anyway."""
    lora: LoraConfig = _NO_ADAPTERS
    """Low-rank adapters: they are trained, and of the rest only what `trained` matches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What to train on, and how rows become batches."""

    directory: str = "glyphs"
    """A directory in MMEB's schema, or "glyphs" for the embedded dataset."""
    subsets: tuple[str, ...] = ()
    """Names of the subsets to train on; empty takes all that have training rows."""
    batch_size: int = 1024
    """Rows of the global batch: every query sees the targets of all of them as negatives."""
    sub_batch_size: int = 64
    """Rows of a batch that come from one subset."""
    chunk_size: int | None = None
    """Rows that a device encodes at once (GradCache); None encodes its whole share."""
    keep_frozen_features: bool = True
    """Keep what a frozen tower made of a batch's pictures from GradCache's first pass for its second: 1.7 MB a tile of
    SigLIP's. Without, it sees them twice."""
    mixing_exponent: float = 0.5
    """A subset is drawn in proportion to its size to this power: 1 is by size, 0 is uniform."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Factors on the shares of subsets, by name; a subset that is not named has 1."""
    max_rows_per_subset: int | None = None
    """Use no more than so many rows of a subset: a random choice of the seed's, not the first ones. None uses all."""
    negatives_per_query: int | None = None
    """Most explicit hard negatives of a row in a batch; where it has more, its visits take them in turn. None takes as
    many as the rows of the step have, 0 none."""
    token_buckets: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 9216)
    """The padded sequence lengths that may be compiled, ascending."""
    image_buckets: tuple[int, ...] | None = None
    """The padded numbers of image slots a row (on average over a chunk) that may be compiled, ascending, in the unit of
    the backbone: tiles for LLaVA-OneVision, patches for QQMM. None takes the backbone's own."""
    max_programs: int | None = 16
    """Most shapes that steps may have, and so programs that are compiled; None lets each step have the smallest buckets
    that fit."""
    on_large_images: Literal["error", "shrink"] = "error"
    """Pictures of a row that take more slots than the largest of `image_buckets`, or more tokens than the largest of
    `token_buckets` has beside the template, stop the run, or come at the highest of the lower resolutions that fits."""
    on_bad_record: Literal["error", "skip"] = "error"
    """A row that cannot be used stops the run, or is counted, reported and left out."""
    verify_images: Literal["path", "header", "decode"] = "decode"
    """What every image is held to before the first step: that its file is there, that its header is an image's, or that
    it decodes whole. A truncated picture that is met later stops the run, whatever `on_bad_record` says."""
    threads: int = 2
    """Threads that prepare batches on each process."""
    prefetch: int = 4
    """Batches prepared ahead."""

    def __post_init__(self) -> None:
        _positive(self, "batch_size", "sub_batch_size", "threads", "prefetch")
        if self.batch_size % self.sub_batch_size:
            raise BadInputError(
                f"data.batch_size {self.batch_size} is not a multiple of data.sub_batch_size {self.sub_batch_size}"
            )
        optional = ("chunk_size", "max_rows_per_subset", "max_programs")
        _positive(self, *(name for name in optional if getattr(self, name) is not None))
        if self.negatives_per_query is not None and self.negatives_per_query < 0:
            raise BadInputError(f"data.negatives_per_query must not be negative, got {self.negatives_per_query}")
        if wrong := [name for name, weight in self.weights.items() if not (weight > 0 and math.isfinite(weight))]:
            raise BadInputError(f"data.weights must be positive, but that of {wrong[0]!r} is {self.weights[wrong[0]]}")
        for name in ("token_buckets", "image_buckets"):
            ladder = getattr(self, name)
            if ladder is None:
                continue
            if not ladder or list(ladder) != sorted(set(ladder)):
                raise BadInputError(f"data.{name} must be ascending and not empty, got {ladder}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The options of `ega_jax.ega_loss` (see there)."""

    temperature: float = 0.02
    alpha: float = DEFAULTS.alpha
    """How fast hardness falls off with the distance to the positive."""
    beta: float = DEFAULTS.beta
    """How much hard negatives are amplified; 0 is InfoNCE."""
    hardness: Literal["relative", "absolute"] = "relative"
    combine: Literal["normalized", "rebalanced", "unnormalized"] = DEFAULTS.combine
    symmetric: bool = False
    """Add the target-to-query direction."""
    false_negative_margin: float | None = None
    """Leave out negatives that beat the positive by more than this similarity."""
    exchange: Literal["all_gather", "ring"] = "all_gather"
    """How devices see each other's targets: every device holds those of all, or they travel round."""
    matryoshka_dimensions: tuple[int, ...] = ()
    """Widths, ascending and below the model's: the loss is the mean over them and the full width, each of the first
    entries of every vector, renormalised (arXiv 2205.13147)."""

    def __post_init__(self) -> None:
        _positive(self, "temperature")
        if self.alpha < 0 or self.beta < 0:
            raise BadInputError(f"loss.alpha and loss.beta must not be negative, got {self.alpha} and {self.beta}")
        check_matryoshka_dimensions("loss.matryoshka_dimensions", self.matryoshka_dimensions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 2e-5
    """The peak."""
    warmup: float = 0.05
    """Share of all steps that the learning rate rises over."""
    final: float = 0.1
    """Share of the peak that is left at the last step."""
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.01
    """Applied to matrices only: not to norms, biases, embeddings or the newline vector."""
    gradient_clip: float = 1.0
    """Largest global norm of the gradient."""
    on_non_finite: Literal["stop", "skip"] = "stop"
    """What to do about a step whose loss, gradient or update is infinite or NaN: end the run, or leave it out (ten in a
    row end the run all the same). Such a step changes no weight either way."""
    learning_rate_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    """Factors on the learning rate, by regular expression matched from the start of a path; the first that matches
    counts, and a parameter that none matches has 1."""

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "gradient_clip")
        if not 0 <= self.warmup < 1:
            raise BadInputError(f"optimizer.warmup is a share of all steps in [0, 1), got {self.warmup}")
        for pattern, factor in self.learning_rate_factors.items():
            if not (factor > 0 and math.isfinite(factor)):
                raise BadInputError(
                    f"optimizer.learning_rate_factors must be positive, but that of {pattern!r} is {factor}; "
                    "model.frozen is for what is not to be trained"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
    """Sizes of the device mesh; -1, for one axis at most, takes what the others leave."""

    data: int = -1
    """Replicas of the parameters; the batch is split over data x fsdp."""
    fsdp: int = 1
    """Devices that share one copy of the parameters, each gathering what it needs."""
    tensor: int = 1
    """Devices that split the heads and hidden units of every layer."""

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise BadInputError(f"mesh sizes are positive, one of them may be -1; got {dataclasses.asdict(self)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When to save, and what to keep."""

    every: int = 500
    """Steps between checkpoints; the last step and every evaluated one are saved too."""
    keep_latest: int = 2
    keep_best: int = 1
    """Checkpoints of the highest validation score to keep beside the latest."""
    disk_budget_gb: float | None = None
    """Refuse to start when the checkpoints to be kept would need more than this."""
    save_frozen: bool = False
    """Save frozen parameters that came from `model.weights` too, so that the run can be read without that directory."""

    def __post_init__(self) -> None:
        _positive(self, "every", "keep_latest")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Retrieval on the validation subsets during training."""

    every: int | None = None
    """Steps between evaluations; None never evaluates."""
    batch_size: int = 128
    """Items encoded at once."""

    def __post_init__(self) -> None:
        _positive(self, "batch_size", *(() if self.every is None else ("every",)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One experiment."""

    steps: int | None = None
    """Optimizer updates in all; or"""
    epochs: int | None = None
    """times that every row is trained on, without repeats: the length of the run in another unit."""
    seed: int = 0
    """Of the parameters, the order of the data and the embedded dataset."""
    log_every: int = 10
    """Steps between lines of `metrics.jsonl`."""
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    mesh: MeshSettings = MeshSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    validation: ValidationSettings = ValidationSettings()
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go beside `metrics.jsonl`."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise BadInputError(
                f"the length of a run is either steps or epochs, got steps {self.steps} and epochs {self.epochs}; "
                "on the command line `--steps None` takes one back"
            )
        _positive(self, "log_every", "epochs" if self.steps is None else "steps")
        if self.epochs is not None and self.data.weights:
            raise BadInputError("data.weights draws subsets at other rates than every row once, which epochs asks for")
        if self.seed < 0:
            raise BadInputError(f"seed must not be negative, got {self.seed}")


def load_experiment(path: Path) -> TrainConfig:
    """The `config` that the Python file at `path` binds. The file is the user's own program and is run."""
    if not path.is_file():
        raise BadInputError(f"{path}: no such config file; the ones that ship are in configs/")
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, TrainConfig):
        raise BadInputError(f"{path}: must bind `config = TrainConfig(...)`, found {type(config).__name__}")
    return config


def to_json(config: TrainConfig) -> str:
    return TypeAdapter(TrainConfig).dump_json(config, indent=2).decode() + "\n"


def from_json(path: Path) -> TrainConfig:
    """Reads a run's `config.json`.

    Raises:
      BadInputError: the file is missing or unreadable, or a key is unknown (the nearest known one is suggested).
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}; is this a run directory?") from None
    try:
        value: Any = TypeAdapter(dict[str, Any]).validate_json(text)
        _refuse_unknown(value, TrainConfig, str(path))
        return TypeAdapter(TrainConfig).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInputError(f"{path}: {where or 'the file'}: {first['msg']}") from None


def _refuse_unknown(value: dict[str, Any], cls: type, where: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, inner in value.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise BadInputError(f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        default = fields[key].default
        if dataclasses.is_dataclass(default) and isinstance(inner, dict):
            _refuse_unknown(inner, type(default), f"{where}: {key}")
