"""Fresh random Qwen2-VLs, small and awkward, against transformers on torch: pixels, positions, forward and backward."""

import shutil

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file, save_file

import ega_jax.models
from ega_jax.models.backbone import Placed
from ega_jax.models.navit import NavitConfig
from ega_jax.models.qwen2_config import Qwen2Config
from ega_jax.models.qwen2_vl import Qwen2Vl
from ega_jax.models.qwen2_vl_config import Qwen2VlConfig
from ega_jax.models.qwen2_vl_images import Qwen2VlImageConfig, Qwen2VlLayout

from . import golden

CASES = {
    "right": Qwen2VlConfig(
        vision=NavitConfig(
            hidden_size=24, intermediate_size=72, num_hidden_layers=3, num_attention_heads=3, patch_size=6, frames=2
        ),
        text=Qwen2Config(
            vocab_size=97,
            hidden_size=48,
            intermediate_size=61,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_theta=5000.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            mrope_section=(1, 3, 2),
        ),
        image=Qwen2VlImageConfig(patch_size=6, min_pixels=24 * 24, max_pixels=72 * 72),
        image_token_id=95,
        video_token_id=96,
        vision_start_token_id=93,
        vision_end_token_id=94,
    ),
    "left": Qwen2VlConfig(
        vision=NavitConfig(
            hidden_size=40, intermediate_size=80, num_hidden_layers=1, num_attention_heads=5, patch_size=4, frames=2
        ),
        text=Qwen2Config(
            vocab_size=130,
            hidden_size=32,
            intermediate_size=72,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            mrope_section=(2, 2, 4),
        ),
        image=Qwen2VlImageConfig(patch_size=4, min_pixels=16 * 16, max_pixels=48 * 48),
        image_token_id=7,
        video_token_id=9,
        vision_start_token_id=3,
        vision_end_token_id=4,
    ),
}
ROWS = {  # (height, width) of each row's pictures
    "right": [[(31, 75)], [], [(9, 9), (64, 11)], [(500, 480)]],
    "left": [[], [(41, 40)], [(3, 1)], [(33, 99), (70, 10), (17, 60)]],
}


def random_reference(config):
    """A torch model whose every parameter, norms and biases too, matters."""
    hf = {k: v for k, v in config.to_hf().items() if k != "architectures"}
    hf |= {"bos_token_id": 0, "eos_token_id": 0}
    model = transformers.Qwen2VLForConditionalGeneration(transformers.Qwen2VLConfig(**hf)).eval()
    golden.randomize(model)
    model.set_attn_implementation("eager")
    return model


def pictures(sizes, seed):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


def processor(config):
    return transformers.Qwen2VLImageProcessorPil(
        **{k: v for k, v in config.preprocessor_to_hf().items() if not k.endswith(("_type", "_class"))}
    )


def batch(config, sizes, side):
    """Inputs of both: texts of very different lengths around the pictures' tokens, padded on one side."""
    rng = np.random.default_rng(3)
    layout = Qwen2VlLayout(config.image)
    rows = [layout.prepare(pictures(row, seed)) for seed, row in enumerate(sizes)]
    assert [layout.measure(row) for row in sizes] == [(sum(r.tokens_per_image), r.units) for r in rows]
    reserved = [getattr(config, f"{name}_token_id") for name in ("image", "video", "vision_start", "vision_end")]
    words = [i for i in range(config.text.vocab_size) if i not in reserved]
    lines = []
    for row, length in zip(rows, (250, 3, 120, 31), strict=True):
        text = rng.choice(words, length)
        spans = [
            [config.vision_start_token_id, *[config.image_token_id] * count, config.vision_end_token_id]
            for count in row.tokens_per_image
        ]
        lines.append(np.concatenate([text[:2], *map(np.array, spans), text[2:]]).astype(np.int32))
    length = max(map(len, lines))
    ids, mask = np.zeros((4, length), np.int32), np.zeros((4, length), bool)
    starts = [0 if side == "right" else length - len(line) for line in lines]
    placed, first = [], 0
    for b, (line, start) in enumerate(zip(lines, starts, strict=True)):
        ids[b, start : start + len(line)], mask[b, start : start + len(line)] = line, True
        if rows[b].units:
            placed.append(Placed(0, b, np.flatnonzero(ids[b] == config.image_token_id), first, rows[b]))
            first += rows[b].units
    images = layout.collate(placed, groups=1, rows=4, length=length, units=first + 5)
    ours = {"input_ids": ids, "attention_mask": mask, **{name: array[0] for name, array in images.items()}}
    theirs = processor(config)([p for seed, row in enumerate(sizes) for p in pictures(row, seed)], return_tensors="pt")
    return ours, {
        "input_ids": torch.tensor(ids, dtype=torch.long),
        "attention_mask": torch.tensor(mask, dtype=torch.long),
        "mm_token_type_ids": torch.tensor(ids == config.image_token_id, dtype=torch.int32),
        **theirs,
    }


@pytest.mark.parametrize("side", CASES)
def test_forward_and_gradients_equal_torch(side, tmp_path):
    config = CASES[side]
    reference = random_reference(config)
    reference.save_pretrained(tmp_path)
    processor(config).save_pretrained(tmp_path)
    ours, theirs = batch(config, ROWS[side], side)
    direction = np.random.default_rng(5).normal(size=(4, config.text.hidden_size)).astype(np.float32)

    hidden = reference.model(**theirs).last_hidden_state
    mask = ours["attention_mask"]
    last = torch.tensor([np.flatnonzero(row)[-1] for row in mask])
    embeddings = torch.nn.functional.normalize(hidden[torch.arange(4), last], dim=-1)
    (embeddings * torch.tensor(direction)).sum().backward()
    expected = {
        Qwen2Vl.names.canonical(k): p.grad.numpy() for k, p in reference.named_parameters() if p.grad is not None
    }

    model = ega_jax.models.load(tmp_path)
    assert model.config == config
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state):
        def loss(state):
            model = nnx.merge(graphdef, state)
            embeddings = model.embed(ours)
            return (embeddings * direction).sum(), (model.hidden_states(ours), embeddings)

        return jax.grad(loss, has_aux=True)(state)

    gradients, (our_hidden, our_embeddings) = run(state)
    np.testing.assert_allclose(our_hidden[mask], hidden.detach().numpy()[mask], **golden.FEATURES)
    np.testing.assert_allclose(our_embeddings, embeddings.detach(), **golden.EMBEDDINGS)
    golden.assert_gradients_close(golden.published(graphdef, gradients), expected)


def renamed(tensors, *pairs):
    """Tensors under other names: the first pair's whose beginning fits."""
    return {
        next(new + name.removeprefix(old) for old, new in (*pairs, ("", "")) if name.startswith(old)): tensor
        for name, tensor in tensors.items()
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A model directory as transformers writes it."""
    directory = tmp_path_factory.mktemp("published")
    random_reference(CASES["left"]).save_pretrained(directory)
    processor(CASES["left"]).save_pretrained(directory)
    return directory


def test_weights_are_read_from_every_layout(published, tmp_path):
    tensors = load_file(published / "model.safetensors")
    expected = nnx.state(ega_jax.models.load(published))
    layouts = {
        "in memory since 4.52": [("visual.", "model.visual."), ("model.", "model.language_model.")],
        "the inner model": [("model.", "language_model.")],
    }
    for name, pairs in layouts.items():
        directory = tmp_path / name
        directory.mkdir()
        shutil.copy(published / "config.json", directory)
        save_file(renamed(tensors, *pairs), directory / "model.safetensors")
        got = nnx.state(ega_jax.models.load(directory))
        jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_round_trip_is_exact_and_transformers_reads_it(published, tmp_path):
    model = ega_jax.models.load(published)
    ega_jax.models.save(model, tmp_path, passthrough=published)
    before, after = (load_file(directory / "model.safetensors") for directory in (published, tmp_path))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)
    _, info = transformers.Qwen2VLForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_pictures_without_positions_are_refused(published):
    ours, _ = batch(CASES["left"], ROWS["left"], "left")
    with pytest.raises(ValueError, match="mrope_positions"):
        ega_jax.models.load(published).embed({k: v for k, v in ours.items() if k != "positions"})
