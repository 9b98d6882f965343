"""Published weights in and out: every name accounted for, every layout read, every fault named."""

import json
import math

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file, save_file

import ega_jax.models
from ega_jax.errors import BadInputError
from ega_jax.models import parameter_reading, weights
from ega_jax.models.functional import Functional, parameters_of
from ega_jax.models.layers import Linear, Stack
from ega_jax.models.name_table import NameTable, slots_of

from . import golden

PUBLISHED = golden.LLAVA / "model" / "model.safetensors"
KEY = "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"
OTHER = "language_model.model.layers.0.input_layernorm.weight"


def abstract():
    return nnx.eval_shape(lambda: ega_jax.models.build(golden.config(), rngs=nnx.Rngs(0)))


def directory_of(tensors, tmp_path, name="model.safetensors"):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / name)
    return tmp_path


def load(directory):
    model = abstract()
    ega_jax.models.load_weights(model, directory)
    return nnx.state(model)


def assert_states_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.fixture
def tensors():
    return dict(load_file(PUBLISHED))


def test_every_published_parameter_of_the_7b_has_a_place():
    published = json.loads((golden.LLAVA / "param_shapes_7b.json").read_text())
    model = nnx.eval_shape(lambda: ega_jax.models.build("llava_onevision_7b", rngs=nnx.Rngs(0)))
    slots = {slot.name: list(slot.shape) for slot in slots_of(model)}
    passed_over = {name: shape for name, shape in published.items() if name.endswith(golden.PASSED_OVER)}
    assert slots | passed_over == published
    # Ours has neither the head (vocabulary x width) nor the tower's last norm; with them it is the published count.
    ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    head, norm = 152128 * 3584, 2 * 1152
    assert sum(math.prod(shape) for shape in passed_over.values()) == head + norm
    assert ours + head + norm == sum(math.prod(shape) for shape in published.values())
    assert round((ours + head + norm) / 1e9, 2) == 8.03  # what the model's page says


def test_round_trip_is_exact(tmp_path, tensors):
    ega_jax.models.save_weights(golden.model(), tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert saved.keys() == {name for name in tensors if not name.endswith(golden.PASSED_OVER)}
    for name, value in saved.items():
        np.testing.assert_array_equal(value, tensors[name], err_msg=name)
    assert_states_equal(load(tmp_path / "ours"), nnx.state(golden.model()))


def test_named_parameters_alone_are_read(monkeypatch):
    read = []

    def reading(leaf, slots, tensors):
        read.append(slots[0].path)
        return parameter_reading.read_parameter(leaf, slots, tensors)

    monkeypatch.setattr(weights, "read_parameter", reading)
    functional = Functional(lambda rngs: ega_jax.models.build(golden.config(), rngs=rngs))
    paths = {"projector/linear_1/kernel", "language_model/norm/scale"}
    found = functional.load(PUBLISHED.parent, paths=paths)
    assert found.keys() == paths == {"/".join(map(str, path)) for path in read}
    whole = parameters_of(golden.model())
    for path, value in found.items():
        np.testing.assert_array_equal(value, whole[path], err_msg=path)


def test_saved_model_is_read_by_transformers_without_a_missing_name(tmp_path):
    ega_jax.models.save(golden.model(), tmp_path, passthrough=golden.LLAVA / "model")
    reference, info = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    case = golden.case("text_rpad")
    with torch.no_grad():
        hidden = reference.model(
            input_ids=torch.tensor(case["in.input_ids"]), attention_mask=torch.tensor(case["in.attention_mask"])
        ).last_hidden_state.numpy()
    got, expected = (golden.where_real(x, case) for x in (hidden, case["out.final_hidden"]))
    np.testing.assert_allclose(got, expected, **golden.FEATURES)
    assert ega_jax.models.load_config(tmp_path) == golden.config()
    assert_states_equal(nnx.state(ega_jax.models.load(tmp_path)), nnx.state(golden.model()))


def test_shards_have_an_index_and_load_alike(tmp_path):
    ega_jax.models.save_weights(golden.model(), tmp_path, max_shard_bytes=200_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert max((tmp_path / file).stat().st_size for file in files) < 220_000
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(golden.model())))
    assert_states_equal(load(tmp_path), nnx.state(golden.model()))


def in_memory(name):
    """transformers 4.52 to 4.57 in memory."""
    name = name.replace("language_model.model.", "language_model.").replace("language_model.lm_head", "lm_head")
    return name if name.startswith("lm_head") else f"model.{name}"


LAYOUTS = {
    "4.52 in memory": in_memory,
    "5.23 in memory": lambda name: in_memory(name).replace("vision_model.", ""),
    "5.23 on disk": lambda name: name.replace("vision_model.", ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_names_is_read(tmp_path, tensors, layout):
    renamed = {LAYOUTS[layout](name): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    assert_states_equal(load(directory_of(renamed, tmp_path)), nnx.state(golden.model()))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_become_float32(tmp_path, tensors, dtype):
    halves = {name: value.astype(dtype) for name, value in tensors.items()}
    state = load(directory_of(halves, tmp_path))
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype(np.float32), nnx.state(golden.model()))
    assert_states_equal(state, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("piece", [parameter_reading.PIECE_BYTES, 1000])
def test_parameters_arrive_in_their_shardings(piece, monkeypatch):
    monkeypatch.setattr(parameter_reading, "PIECE_BYTES", piece)
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rules = {"mlp": "tensor", "heads": "tensor", "vision_heads": "tensor", "vision_mlp": "tensor", "embed": "fsdp"}
    rules |= {"vision_embed": "fsdp"}
    model = abstract()
    axes = ega_jax.models.logical_axes(nnx.state(model))

    def place(variable, names):
        spec = jax.P(*(rules.get(name) for name in names))
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=jax.NamedSharding(mesh, spec))

    nnx.update(model, jax.tree.map(place, nnx.state(model), axes, is_leaf=lambda x: isinstance(x, nnx.Variable)))
    ega_jax.models.load_weights(model, golden.LLAVA / "model")
    kernel = model.language_model.decoder.layers.mlp.gate_proj.kernel[...]
    assert kernel.sharding.spec == jax.P(None, "fsdp", "tensor")
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 64 // 4, 112 // 2)}
    patches = model.vision_tower.patch_embedding.kernel[...]
    assert {shard.data.shape for shard in patches.addressable_shards} == {(588, 32 // 4)}
    assert_states_equal(nnx.state(model), nnx.state(golden.model()))


def test_faults_are_named_all_together(tmp_path, tensors):
    tensors["image_oldline"] = tensors.pop("image_newline")
    del tensors[OTHER]
    tensors[KEY] = tensors[KEY].T
    tensors["model." + "multi_modal_projector.linear_1.bias"] = tensors["multi_modal_projector.linear_1.bias"]
    bias = "language_model.model.layers.2.self_attn.q_proj.bias"
    tensors[bias] = tensors[bias].astype(np.int32)
    with pytest.raises(BadInputError) as error:
        load(directory_of(tensors, tmp_path))
    message = str(error.value)
    assert str(tmp_path) in message
    unknown, missing, doubled, wrong = message.split("; ")
    assert unknown.endswith("unknown: image_oldline")
    assert set(missing.removeprefix("missing: ").split(", ")) == {"image_newline", OTHER}
    assert doubled.startswith("doubled: ")
    assert "multi_modal_projector.linear_1.bias (model.safetensors and model.safetensors)" in doubled
    assert f"{KEY} (is (32, 72), must be (72, 32))" in wrong
    assert f"{bias} (dtype I32 is not a float)" in wrong
    assert "\n" not in message


def test_all_missing_names_are_told(tmp_path, tensors):
    with pytest.raises(BadInputError) as error:
        load(directory_of({"image_newline": tensors["image_newline"]}, tmp_path))
    wanted = [name for name in tensors if not name.endswith(golden.PASSED_OVER) and name != "image_newline"]
    assert all(name in str(error.value) for name in wanted)


def test_same_tensor_in_two_files(tmp_path, tensors):
    directory_of(tensors, tmp_path)
    directory_of({KEY: tensors[KEY]}, tmp_path, "more.safetensors")
    with pytest.raises(BadInputError, match=r"doubled: .*fc1\.weight \(model\.safetensors and more\.safetensors\)"):
        load(tmp_path)


def test_head_and_last_norm_may_be_absent(tmp_path, tensors):
    bare = {name: value for name, value in tensors.items() if not name.endswith(golden.PASSED_OVER)}
    assert len(bare) == len(tensors) - 3
    assert_states_equal(load(directory_of(bare, tmp_path)), nnx.state(golden.model()))


def test_no_safetensors(tmp_path):
    with pytest.raises(BadInputError, match=r"no \*\.safetensors files; other formats are not read"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(
        BadInputError, match=r"pytorch_model\.bin, a pickle, which can run code .* with transformers: .*save_pretrained"
    ):
        load(tmp_path)


def test_broken_files(tmp_path):
    whole = PUBLISHED.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a safetensors file at all"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(BadInputError, match=r"model\.safetensors: not a whole safetensors file"):
            load(tmp_path)


def test_index_of_absent_files(tmp_path, tensors):
    directory_of(tensors, tmp_path, "model-00001-of-00002.safetensors")
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {KEY: files[0], OTHER: files[1]}}))
    with pytest.raises(BadInputError, match=r"not there: model-00002-of-00002\.safetensors"):
        load(tmp_path)
    index.write_text("{}")
    with pytest.raises(BadInputError, match="not an index of safetensors shards"):
        load(tmp_path)


def test_saving_over_weights_is_refused(tmp_path, tensors):
    directory_of(tensors, tmp_path)
    with pytest.raises(BadInputError, match="holds safetensors files already"):
        ega_jax.models.save_weights(golden.model(), tmp_path)
    with pytest.raises(BadInputError, match=r"no \*\.safetensors"):
        ega_jax.models.save_weights(golden.model(), tmp_path / "new", passthrough=tmp_path / "none")
    assert not (tmp_path / "new").exists()


class Fused(nnx.Module):
    """A stack of two layers whose queries, keys and values are one tensor in the files."""

    names = NameTable(
        prefixes=(("stack.layers", "blocks.{}"),),
        passed_over="head",
        fused={"attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj")},
    )

    def __init__(self, rngs):
        compute = ega_jax.models.Compute()

        def layer(rngs):
            maps = {
                f"{name}_proj": Linear(6, size, axes=("embed", "heads"), compute=compute, rngs=rngs)
                for name, size in (("v", 2), ("q", 4), ("k", 2), ("out", 6))
            }
            return nnx.Dict(attn=nnx.Dict(maps))

        self.stack = Stack(layer, 2, compute=compute, rngs=rngs)


@pytest.mark.parametrize("piece", [parameter_reading.PIECE_BYTES, 40])
def test_modules_that_are_one_tensor_in_the_files(tmp_path, piece, monkeypatch):
    monkeypatch.setattr(parameter_reading, "PIECE_BYTES", piece)
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        for name, size in (("qkv", 8), ("out_proj", 6)):
            tensors[f"blocks.{layer}.attn.{name}.weight"] = rng.normal(size=(size, 6)).astype(np.float32)
            tensors[f"blocks.{layer}.attn.{name}.bias"] = rng.normal(size=size).astype(np.float32)
    model = nnx.eval_shape(lambda: Fused(nnx.Rngs(0)))
    ega_jax.models.load_weights(model, directory_of(tensors, tmp_path))
    qkv, attn = tensors["blocks.1.attn.qkv.weight"], model.stack.layers["attn"]
    np.testing.assert_array_equal(attn["q_proj"].kernel[...][1], qkv[:4].T)
    np.testing.assert_array_equal(attn["k_proj"].kernel[...][1], qkv[4:6].T)
    np.testing.assert_array_equal(attn["v_proj"].kernel[...][1], qkv[6:].T)
    np.testing.assert_array_equal(attn["v_proj"].bias[...][0], tensors["blocks.0.attn.qkv.bias"][6:])
    ega_jax.models.save_weights(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    with pytest.raises(ValueError, match="has no published name"):
        Fused.names.published("other.kernel")
