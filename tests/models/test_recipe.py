"""The recipe goes with the weights, and what is not understood is refused."""

import dataclasses
import json

import pytest
from PIL import Image

from ega_jax.data.records import side_of
from ega_jax.errors import BadInputError
from ega_jax.models.recipe import RECIPE, PictureLimit, Recipe, read_recipe
from ega_jax.training.config import ModelSettings, TrainConfig
from ega_jax.training.setup import make_setup, recipe_of, write_model_directory

from ..micro import config


def with_settings(model=None, **loss):
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **(model or {})),
        loss=dataclasses.replace(config.loss, **loss),
    )


def test_what_is_written_is_read(tmp_path):
    recipe = Recipe(
        system_prompt="Be brief: 中文",
        base_only=True,
        picture_limit=PictureLimit(slots=5, tokens=64),
        matryoshka_dimensions=(4, 8),
    )
    recipe.write(tmp_path)
    assert read_recipe(tmp_path) == recipe
    assert set(json.loads((tmp_path / RECIPE).read_text())) == {field.name for field in dataclasses.fields(Recipe)}


def test_a_directory_without_one_has_the_defaults(tmp_path):
    assert read_recipe(tmp_path) == Recipe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"pooling": "mean"}', r"recipe\.json: pooling: .*'mean'"),
        ('{"normalization": "none"}', r"recipe\.json: normalization: .*'none'"),
        ('{"poling": "last"}', r"recipe\.json: unknown key 'poling'; known: .*pooling"),
        ('{"base_only": "yes"}', r"recipe\.json: base_only: .*'yes'"),
        ('{"matryoshka_dimensions": [8, 4]}', r"recipe\.json: matryoshka_dimensions must be positive and ascending"),
        ('{"matryoshka_dimensions": [0]}', r"recipe\.json: matryoshka_dimensions must be positive and ascending"),
        ('{"picture_limit": {"slots": 10}}', r"recipe\.json: picture_limit\.tokens: "),
        ('{"picture_limit": {"slots": 10, "tokens": 0}}', r"recipe\.json: a picture_limit must be positive"),
        ("[]", r"recipe\.json: the file: "),
        ("{", r"recipe\.json: the file: "),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, content, message):
    (tmp_path / RECIPE).write_text(content)
    with pytest.raises(BadInputError, match=message):
        read_recipe(tmp_path)


def test_a_run_writes_its_settings_and_the_directory_alone_gives_them_back(tmp_path):
    model = {"system_prompt": "Find the colour.", "base_only": True}
    trained = with_settings(model, matryoshka_dimensions=(4, 8))
    write_model_directory(trained, tmp_path / "model", lambda: ["red", "green"])
    expected = Recipe(system_prompt="Find the colour.", base_only=True, matryoshka_dimensions=(4, 8))
    assert read_recipe(tmp_path / "model") == expected
    alone = make_setup(config, tmp_path / "model")
    assert alone.recipe == expected
    plain = make_setup(config, write_plain(tmp_path))
    assert alone.processor.fingerprint != plain.processor.fingerprint
    assert alone.processor.fingerprint == make_setup(trained, tmp_path / "model").processor.fingerprint


def write_plain(tmp_path):
    write_model_directory(config, tmp_path / "plain", lambda: ["red", "green"])
    return tmp_path / "plain"


def test_a_setting_goes_before_the_directory(tmp_path):
    Recipe(system_prompt="Old.", matryoshka_dimensions=(4,)).write(tmp_path)
    assert recipe_of(config, tmp_path) == Recipe(system_prompt="Old.", matryoshka_dimensions=(4,))
    changed = with_settings({"system_prompt": ""}, matryoshka_dimensions=(2, 8))
    assert recipe_of(changed, tmp_path) == Recipe(system_prompt="", matryoshka_dimensions=(2, 8))


def test_a_run_inherits_the_prompt_of_its_weights_but_not_the_widths(tmp_path):
    base = write_plain(tmp_path)
    Recipe(system_prompt="Old.", matryoshka_dimensions=(4,)).write(base)
    write_model_directory(with_settings({"weights": base}), tmp_path / "model", list)
    assert read_recipe(tmp_path / "model") == Recipe(system_prompt="Old.")


def test_shrinking_goes_with_the_weights(tmp_path):
    data = dataclasses.replace(config.data, on_large_images="shrink", image_buckets=(0, 2), token_buckets=(64, 96))
    trained = dataclasses.replace(config, data=data)
    write_model_directory(trained, tmp_path / "model", lambda: ["red", "green"])
    assert read_recipe(tmp_path / "model").picture_limit == PictureLimit(slots=2, tokens=96)
    # Whoever loads the directory alone has other buckets, and the same vectors.
    alone = make_setup(TrainConfig(steps=1, model=ModelSettings(weights=tmp_path / "model")), tmp_path / "model")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "large.png")
    side = side_of("red " * 90, [tmp_path / "large.png"])
    found, expected = (setup.processor.measure([side]) for setup in (alone, make_setup(trained, tmp_path / "model")))
    assert found.units.tolist() == expected.units.tolist() == [2]
    found, expected = (setup.processor.prepare(side) for setup in (alone, make_setup(trained, tmp_path / "model")))
    assert found.input_ids.tolist() == expected.input_ids.tolist()
    assert len(found.input_ids) == 96
    plain = make_setup(config, write_plain(tmp_path)).processor
    assert plain.measure([side]).units.tolist() == [5]
    # A further run cannot take more than its own buckets hold.
    smaller = dataclasses.replace(config, data=dataclasses.replace(config.data, token_buckets=(32, 80)))
    assert recipe_of(smaller, tmp_path / "model").picture_limit == PictureLimit(slots=2, tokens=80)


def test_a_width_that_the_model_does_not_have_is_refused(tmp_path):
    trained = with_settings(matryoshka_dimensions=(4, 16))
    with pytest.raises(BadInputError, match=r"below the model's width 16"):
        make_setup(trained, write_plain(tmp_path))
    with pytest.raises(BadInputError, match=r"loss.matryoshka_dimensions must be positive and ascending"):
        with_settings(matryoshka_dimensions=(4, 4))
