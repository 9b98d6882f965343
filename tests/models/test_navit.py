"""Packing: what a picture's features are does not depend on what is packed beside it, nor on the patches' order."""

import jax
import numpy as np
import pytest
from flax import nnx

from ega_jax.errors import BadInputError
from ega_jax.models.layers import Compute
from ega_jax.models.navit import NavitConfig, NavitTower
from ega_jax.models.patch_layout import block_index, cut_patches, patch_positions

CONFIG = NavitConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, patch_size=2)
GRIDS = [(2, 3), (1, 1), (3, 1)]  # in blocks of 2 x 2


@pytest.fixture(scope="module")
def tower():
    return NavitTower(CONFIG, compute=Compute(), rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [
        (rng.standard_normal((4 * rows * columns, 12)).astype(np.float32), patch_positions((rows, columns), 2))
        for rows, columns in GRIDS
    ]


def packed(pictures, segments, padding=0):
    """Patches, segments and positions of pictures in one row; padding is noise, which must not matter."""
    noise = np.random.default_rng(1).standard_normal((padding, 12)).astype(np.float32)
    ids = np.repeat(segments, [len(patches) for patches, _ in pictures])
    return (
        np.concatenate([*(patches for patches, _ in pictures), noise]),
        np.concatenate([ids, np.zeros(padding)]).astype(np.int32),
        np.concatenate([*(positions for _, positions in pictures), np.ones((padding, 2), np.int32)]),
    )


def test_features_do_not_depend_on_what_is_packed_beside(tower, pictures):
    run = jax.jit(tower)
    alone = [np.asarray(run(*packed([picture], [1]))) for picture in pictures]
    together = run(*packed(pictures, [7, 2, 3], padding=9))
    np.testing.assert_allclose(together[:-9], np.concatenate(alone), atol=1e-5)
    merged = run(*packed(pictures, [7, 7, 3]))
    assert np.abs(merged[: len(alone[0])] - alone[0]).max() > 0.05, "segments must matter"


def test_patches_may_stand_in_any_order_and_their_places_matter(tower, pictures):
    patches, segments, positions = packed(pictures, [1, 2, 3])
    run, order = jax.jit(tower), np.random.default_rng(2).permutation(len(patches))
    features = np.asarray(run(patches, segments, positions))
    np.testing.assert_allclose(run(patches[order], segments[order], positions[order]), features[order], atol=1e-5)
    # Attention sees relative places alone: moving a whole picture changes nothing, turning it does.
    np.testing.assert_allclose(run(patches, segments, positions + np.int32([5, 3])), features, atol=2e-5)
    assert np.abs(run(patches, segments, positions[:, ::-1]) - features)[:24].max() > 0.01


def test_padding_has_finite_gradients_and_gives_none(tower, pictures):
    patches, segments, positions = packed(pictures, [1, 2, 3], padding=4)
    graphdef, state = nnx.split(tower)

    def loss(state, patches):
        return (nnx.merge(graphdef, state)(patches, segments, positions)[:-4] ** 2).sum()

    weights, pixels = jax.jit(jax.grad(loss, argnums=(0, 1)))(state, patches)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))
    assert np.abs(pixels[:-4]).max(axis=1).min() > 0
    np.testing.assert_array_equal(pixels[-4:], 0)


def test_patches_stand_block_by_block():
    rows, columns = np.indices((8, 12), np.uint8)
    patches = cut_patches(np.stack([rows, columns, rows * 0 + 9], -1), patch_size=2, merge_size=2)
    corners = patches.reshape(24, 2, 2, 3)[:, 0, 0]
    np.testing.assert_array_equal(corners[:, :2] // 2, patch_positions((2, 3), 2))
    np.testing.assert_array_equal(corners[:5, :2], [[0, 0], [0, 2], [2, 0], [2, 2], [0, 4]])
    np.testing.assert_array_equal(patches[1].reshape(2, 2, 3)[1, 0], [1, 2, 9])


def test_a_pictures_tokens_begin_with_the_leading_rows():
    np.testing.assert_array_equal(block_index([(1, 2), (1, 1)], lead=1, first=5), [0, 6, 7, 0, 8])
    np.testing.assert_array_equal(block_index([(2, 1)], lead=0, first=0), [0, 1])
    assert block_index([], lead=1, first=0).shape == (0,)


def test_refuses_heads_without_rows_and_columns():
    with pytest.raises(BadInputError, match="multiple of 4"):
        NavitConfig(hidden_size=30, intermediate_size=8, num_hidden_layers=1, num_attention_heads=5, patch_size=2)


def test_a_row_of_12288_patches_needs_no_square_of_them():
    """Nothing runs: the compiled gradient tells what it would hold."""
    size = 12_288
    abstract = nnx.eval_shape(lambda: NavitTower(CONFIG, compute=Compute(), rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    inputs = (
        jax.ShapeDtypeStruct((size, 12), np.float32),
        jax.ShapeDtypeStruct((size,), np.int32),
        jax.ShapeDtypeStruct((size, 2), np.int32),
    )
    gradient = jax.grad(lambda state, inputs: (nnx.merge(graphdef, state)(*inputs) ** 2).sum())
    memory = jax.jit(gradient).lower(state, inputs).compile().memory_analysis()
    square = 4 * size**2
    assert memory.temp_size_in_bytes < square / 2
