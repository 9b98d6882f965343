"""Fresh random models, small and awkward, against transformers on torch, forward and backward."""

import functools

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import ega_jax.models
from ega_jax.models import AnyresConfig, LlavaOnevisionConfig, anyres
from ega_jax.models.llava_onevision_names import NAMES
from ega_jax.models.qwen2_config import Qwen2Config
from ega_jax.models.siglip import SiglipConfig

from . import golden

REMAINDER_AND_GROUPS = LlavaOnevisionConfig(
    vision=SiglipConfig(
        hidden_size=24,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=40,
        patch_size=12,
        layer_norm_eps=1e-4,
    ),
    text=Qwen2Config(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=61,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        rope_theta=5000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    ),
    image=AnyresConfig(
        tile_size=40, grid_size=3, pinpoints=((40, 80), (80, 40), (80, 80), (120, 40), (120, 120)), max_patches=2
    ),
    image_token_id=95,
    video_token_id=96,
)
DEEP_AND_WIDE = LlavaOnevisionConfig(
    vision=SiglipConfig(
        hidden_size=20,
        intermediate_size=44,
        num_hidden_layers=1,
        num_attention_heads=5,
        image_size=32,
        patch_size=8,
    ),
    text=Qwen2Config(
        vocab_size=130,
        hidden_size=40,
        intermediate_size=72,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
    ),
    image=AnyresConfig(tile_size=32, grid_size=4, pinpoints=((32, 32), (64, 96), (128, 32)), max_patches=4),
    image_token_id=7,
    video_token_id=9,
)
ROWS = {  # (height, width) of each row's pictures
    "right": [[(300, 110)], [], [(50, 51), (20, 90)], [(17, 140)]],
    "left": [[], [(41, 40)], [(500, 480)], [(33, 99), (70, 10), (64, 64)]],
}
CASES = {"right": REMAINDER_AND_GROUPS, "left": DEEP_AND_WIDE}


def random_reference(config, seed):
    """A torch model whose every parameter, norms and biases too, matters."""
    hf = config.to_hf()
    model = transformers.LlavaOnevisionForConditionalGeneration(
        transformers.LlavaOnevisionConfig(**{k: v for k, v in hf.items() if k != "architectures"})
    ).eval()
    golden.randomize(model, seed)
    model.set_attn_implementation("eager")
    return model


def batch(config, rows, side, seed):
    """Inputs of both: texts of very different lengths around the pictures' tokens, padded on one side."""
    rng = np.random.default_rng(seed)
    sources = [anyres.token_sources(row, config.image) for row in rows]
    words = [
        rng.choice(
            [i for i in range(config.text.vocab_size) if i not in (config.image_token_id, config.video_token_id)], n
        )
        for n in (250, 3, 120, 31)
    ]
    lines = [
        np.concatenate([text[:2], np.full(len(source.index), config.image_token_id), text[2:]])
        for text, source in zip(words, sources, strict=True)
    ]
    length = max(map(len, lines))
    ids, mask = np.zeros((4, length), np.int32), np.zeros((4, length), bool)
    for b, line in enumerate(lines):
        place = slice(0, len(line)) if side == "right" else slice(length - len(line), length)
        ids[b, place], mask[b, place] = line, True
    pictures = [
        rng.uniform(-1, 1, (plan.tiles, *[config.image.tile_size] * 2, 3)).astype(np.float32)
        for row in rows
        for plan in anyres.plan_row(row, config.image)
    ]
    first, tables = 0, []
    for source in sources:
        tables.append((anyres.shift_tiles(source.index, first, config.image.features_per_tile), source.weight))
        first += source.num_tiles
    index, weight = golden.scatter_rows(ids, tables, (config.image_token_id,))
    ours = {
        "input_ids": ids,
        "attention_mask": mask,
        "tiles": np.concatenate(pictures),
        "visual_index": index,
        "visual_weight": weight,
    }
    most = max(map(len, pictures))
    pixels = np.stack([np.pad(p, [(0, most - len(p)), (0, 0), (0, 0), (0, 0)]) for p in pictures])
    theirs = {
        "input_ids": torch.tensor(ids, dtype=torch.long),
        "attention_mask": torch.tensor(mask, dtype=torch.long),
        "position_ids": torch.tensor(np.maximum(np.cumsum(mask, 1) - 1, 0)),
        "pixel_values": torch.tensor(pixels.transpose(0, 1, 4, 2, 3)),
        "image_sizes": torch.tensor([size for row in rows for size in row]),
        "batch_num_images": torch.tensor([len(row) for row in rows if row]),
    }
    return ours, theirs


@pytest.mark.parametrize("side", CASES)
def test_forward_and_gradients_equal_torch(side, tmp_path):
    config, program = CASES[side], None
    for seed in (1, 2, 3):
        reference = random_reference(config, seed)
        reference.save_pretrained(tmp_path / str(seed))
        ours, theirs = batch(config, ROWS[side], side, seed)
        assert ours["input_ids"].shape[1] >= 250
        direction = np.random.default_rng(5 + seed).normal(size=(4, config.text.hidden_size)).astype(np.float32)
        model = ega_jax.models.load(tmp_path / str(seed))
        assert model.config == config
        graphdef, state = nnx.split(model)
        program = program or jax.jit(functools.partial(hidden_embeddings_and_gradients, graphdef))

        (hidden, embeddings), gradients = program(state, ours, direction)
        expected_hidden, expected_embeddings, expected = of_reference(reference, ours, theirs, direction)
        mask = ours["attention_mask"]
        np.testing.assert_allclose(hidden[mask], expected_hidden[mask], **golden.FEATURES)
        np.testing.assert_allclose(embeddings, expected_embeddings, **golden.EMBEDDINGS)
        golden.assert_gradients_close(golden.published(graphdef, gradients), expected)


def hidden_embeddings_and_gradients(graphdef, state, inputs, direction):
    def loss(state):
        model = nnx.merge(graphdef, state)
        embeddings = model.embed(inputs)
        return (embeddings * direction).sum(), (model.hidden_states(inputs), embeddings)

    gradients, found = jax.grad(loss, has_aux=True)(state)
    return found, gradients


def of_reference(reference, ours, theirs, direction):
    """The same in torch; gradients by our names."""
    hidden = reference.model(**theirs).last_hidden_state
    last = torch.tensor([np.flatnonzero(row)[-1] for row in ours["attention_mask"]])
    embeddings = torch.nn.functional.normalize(hidden[torch.arange(4), last], dim=-1)
    (embeddings * torch.tensor(direction)).sum().backward()
    gradients = {NAMES.canonical(k): p.grad.numpy() for k, p in reference.named_parameters() if p.grad is not None}
    return hidden.detach().numpy(), embeddings.detach().numpy(), gradients
