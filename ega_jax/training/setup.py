"""What a run computes with, besides its weights: the model's shape, its processor, the buckets and the mesh.

A run directory holds the model's configuration and tokenizer in `model/`, in the published format, so that the run can
be read without the experiment's file, and goes on with the tokenizer it began with.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import jax

from ega_jax.data.buckets import Buckets
from ega_jax.data.processor import Processor
from ega_jax.data.prompts import TEMPLATES
from ega_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ega_jax.errors import BadInputError
from ega_jax.models import Compute, build, load_config
from ega_jax.models.backbone import BackboneConfig
from ega_jax.models.backbones import backbone_of
from ega_jax.models.embedding_model import EmbeddingModel
from ega_jax.models.functional import Functional
from ega_jax.models.model_files import CONFIG, copy_companions
from ega_jax.models.presets import config_of
from ega_jax.models.recipe import PictureLimit, Recipe, read_recipe
from ega_jax.training.config import TrainConfig
from ega_jax.training.roles import Role, held_dtypes, roles_of
from ega_jax.training.sharding import make_mesh, parameter_shardings

MODEL = "model"


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts that training and encoding share.

    Attributes:
      functional: the model as a function of its weights.
      processor: its host side.
      buckets: the shapes that may be compiled.
      mesh: the devices.
      recipe: how vectors are made: the config's settings, and where it has none the model directory's.
    """

    functional: Functional[EmbeddingModel]
    processor: Processor
    buckets: Buckets
    mesh: jax.sharding.Mesh
    recipe: Recipe


def make_setup(config: TrainConfig, model_dir: Path) -> Setup:
    """Builds the parts from a config and a model directory; no weights are read.

    Raises:
      BadInputError: a file of the model directory is missing or damaged, the mesh does not fit the devices, or a
        Matryoshka dimension is not below the model's width.
    """
    processor = make_processor(config, model_dir)
    layout = processor.layout
    model, recipe = _model_config(config, model_dir), recipe_of(config, model_dir)
    if recipe.matryoshka_dimensions and recipe.matryoshka_dimensions[-1] >= model.text.hidden_size:
        raise BadInputError(
            f"matryoshka_dimensions must be below the model's width {model.text.hidden_size}, which is always trained; "
            f"got {list(recipe.matryoshka_dimensions)}"
        )
    return Setup(
        functional_model(config, model),
        processor,
        Buckets(config.data.token_buckets, config.data.image_buckets or layout.buckets, layout.unit),
        make_mesh(config.mesh),
        recipe,
    )


def make_processor(config: TrainConfig, model_dir: Path) -> Processor:
    """The host side of an experiment.

    Raises:
      BadInputError: a file of the model directory is missing or damaged.
    """
    model, recipe = _model_config(config, model_dir), recipe_of(config, model_dir)
    limit = recipe.picture_limit
    return Processor(
        model,
        fitting_tokenizer(model_dir, model),
        max_tokens=config.data.token_buckets[-1] if limit is None else limit.tokens,
        max_units=None if limit is None else limit.slots,
        system=recipe.system_prompt,
    )


def recipe_of(config: TrainConfig, model_dir: Path) -> Recipe:
    """The recipe of a model directory, with what the config sets in its place.

    Raises:
      BadInputError: its recipe.json is damaged, or of another version of this package.
    """
    recipe, settings = read_recipe(model_dir), config.model
    return dataclasses.replace(
        recipe,
        system_prompt=recipe.system_prompt if settings.system_prompt is None else settings.system_prompt,
        base_only=settings.base_only or recipe.base_only,
        picture_limit=_picture_limit(config, model_dir, recipe),
        matryoshka_dimensions=config.loss.matryoshka_dimensions or recipe.matryoshka_dimensions,
    )


def _picture_limit(config: TrainConfig, model_dir: Path, recipe: Recipe) -> PictureLimit | None:
    """What the largest buckets hold, where the config shrinks pictures; else the recipe's, as far as they hold it."""
    limit = recipe.picture_limit
    if config.data.on_large_images == "error" and limit is None:
        return None
    slots, tokens = _largest_image_bucket(config, model_dir, recipe), config.data.token_buckets[-1]
    if config.data.on_large_images == "shrink" or limit is None:
        return PictureLimit(slots=slots, tokens=tokens)
    return PictureLimit(slots=min(slots, limit.slots), tokens=min(tokens, limit.tokens))


def _largest_image_bucket(config: TrainConfig, model_dir: Path, recipe: Recipe) -> int:
    if config.data.image_buckets is not None:
        return config.data.image_buckets[-1]
    model = _at_resolution(config, model_dir, recipe)
    return backbone_of(model.model_type).layout(model.image).buckets[-1]


def _model_config(config: TrainConfig, model_dir: Path) -> BackboneConfig:
    return _at_resolution(config, model_dir, recipe_of(config, model_dir))


def _at_resolution(config: TrainConfig, model_dir: Path, recipe: Recipe) -> BackboneConfig:
    return load_config(model_dir).with_resolution(
        max_tiles=config.model.max_tiles,
        base_only=config.model.base_only or recipe.base_only,
        max_pixels=config.model.max_pixels,
    )


def fitting_tokenizer(model_dir: Path, model: BackboneConfig) -> Tokenizer:
    """The tokenizer of a model directory.

    Raises:
      BadInputError: there is none, or it is another model's.
    """
    visual, adds_image_token = TEMPLATES[model.model_type].tokens, backbone_of(model.model_type).adds_image_token
    tokenizer = load_tokenizer(model_dir, visual=visual, add_image_token=adds_image_token)
    if tokenizer.image_id != model.image_token_id or tokenizer.vocab_size > model.text.vocab_size:
        raise BadInputError(
            f"{model_dir}: tokenizer.json (image token {tokenizer.image_id}, {tokenizer.vocab_size} entries) does not "
            f"fit config.json (image token {model.image_token_id}, {model.text.vocab_size} entries)"
        )
    return tokenizer


def starting_parameters(
    config: TrainConfig, setup: Setup, paths: Collection[str] | None = None
) -> dict[str, jax.Array]:
    """The weights that a run begins with, each born where it lives: the given ones, or random ones of its seed.

    Adapters are random in either case. With `paths`, those weights alone: nothing else is read or drawn.
    """
    functional = setup.functional
    places = parameter_shardings(functional, setup.mesh)
    roles = roles_of(functional.parameters, config.model)
    dtypes = held_dtypes(functional, roles, config.model)
    if config.model.weights is None:
        return functional.initialize(config.seed, places, dtypes=dtypes, paths=paths)
    given = functional.load(config.model.weights, places, dtypes=dtypes, paths=paths)
    adapters = [path for path, role in roles.items() if role is Role.ADAPTER and (paths is None or path in paths)]
    return {**given, **functional.initialize(config.seed, places, paths=adapters)}


def functional_model(config: TrainConfig, model: BackboneConfig) -> Functional[EmbeddingModel]:
    """The model of an experiment, as a function of its weights."""
    compute = Compute(dtype=config.model.dtype, remat=config.model.remat, attention=config.model.attention)
    return Functional(lambda rngs: build(model, rngs=rngs, compute=compute, lora=config.model.lora))


def write_model_directory(config: TrainConfig, directory: Path, texts: Callable[[], Iterable[str]]) -> None:
    """Lays down a new run's model configuration, recipe and tokenizer: those of the weights to start from, or the
    preset's and one trained on `texts`."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    source = config.model.weights
    if source is not None:
        fitting_tokenizer(source, load_config(source))  # refuse a broken one before anything is written
        shutil.copyfile(source / CONFIG, partial / CONFIG)
        copy_companions(source, partial)
    else:
        preset = config_of(config.model.preset)
        visual = TEMPLATES[preset.model_type].tokens
        tokenizer = train_tokenizer(texts(), config.model.vocab_size, visual=visual)
        model = preset.with_vocabulary(tokenizer.vocab_size, **tokenizer.visual_ids)
        tokenizer.save(partial)
        for name, content in (
            (CONFIG, model.to_hf()),
            ("preprocessor_config.json", model.preprocessor_to_hf()),
        ):
            (partial / name).write_text(json.dumps(content, indent=2) + "\n")
    # Widths that the weights were trained for before are not those that this run trains.
    recipe = dataclasses.replace(recipe_of(config, partial), matryoshka_dimensions=config.loss.matryoshka_dimensions)
    recipe.write(partial)
    partial.rename(directory)
