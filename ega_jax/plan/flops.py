"""Operations of the matrix products of one instruction: 2 for a multiply and an add."""

from __future__ import annotations

import math
import re

import numpy as np

from ega_jax.plan.hlo import Array, Instruction

_WINDOW = re.compile(r"window=\{([^}]*)\}")
# Products of (T, S) logits with d features that a kernel makes: q k and p v; their four gradients, and q k again.
_KERNEL_PRODUCTS = (
    ("fmhaSoftmaxBackward", 5), ("splash_mha_fwd", 2), ("splash_mha_dkv", 4), ("splash_mha_dq", 3), ("fmhaSoftmax", 2),
)  # fmt: skip


def flops(one: Instruction, operands: list[Array]) -> int:
    """Of a `dot`, a `convolution`, or an attention kernel; 0 for everything else.

    Kernels are counted as if they computed every logit: a causal one skips up to half of them.

    Args:
      one: the instruction.
      operands: the first array of each operand.
    """
    if one.opcode == "dot":
        contracted = _dimensions(one.attributes, "lhs_contracting_dims")
        return 2 * math.prod(one.arrays[0].shape) * math.prod(operands[0].shape[axis] for axis in contracted)
    if one.opcode == "convolution":
        return _convolution(one, *operands[:2])
    if one.opcode == "custom-call":
        return _kernel(one, operands)
    return 0


def _dimensions(attributes: str, name: str) -> list[int]:
    found = re.search(name + r"=\{([\d,]*)\}", attributes)
    return [int(axis) for axis in found[1].split(",") if axis] if found else []


def _convolution(one: Instruction, left: Array, right: Array) -> int:
    """Products that meet padding or the holes of a dilation are not made: TPUs write batched products that way."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {one.name}")
    left_names, right_names, out_names = labels.groups()
    out = dict(zip(out_names, one.arrays[0].shape, strict=True))
    inputs, kernel = dict(zip(left_names, left.shape, strict=True)), dict(zip(right_names, right.shape, strict=True))
    settings = _WINDOW.search(one.attributes)
    window = dict(field.split("=") for field in settings[1].split()) if settings else {}
    spatial = sorted(name for name in kernel if name.isdigit())

    def of(field: str, axis: int, default: str) -> str:
        return window[field].split("x")[axis] if field in window else default

    positions = 1
    for axis, name in enumerate(spatial):
        dilation, size = int(of("lhs_dilate", axis, "1")), inputs[name]
        places = np.arange(out[name])[:, None] * int(of("stride", axis, "1")) - int(
            of("pad", axis, "0_0").split("_")[0]
        )
        places = places + np.arange(kernel[name])[None] * int(of("rhs_dilate", axis, "1"))
        positions *= int(np.sum((places >= 0) & (places % dilation == 0) & (places < (size - 1) * dilation + 1)))
    features = re.search(r"batch_group_count=(\d+)", one.attributes)
    return 2 * out["b"] * out["f"] * kernel["i"] * positions // (int(features[1]) if features else 1)


def _kernel(one: Instruction, operands: list[Array]) -> int:
    target = re.search(r'custom_call_target="([^"]*)"', one.attributes)
    name = f"{one.name} {target[1] if target else ''}"
    products = next((count for kernel, count in _KERNEL_PRODUCTS if kernel in name), 0)
    if not products:
        return 0
    # Queries, then keys, come first among the operands of a float type.
    q, k = [array for array in operands if array.dtype[0] in "bf" and len(array.shape) >= 3][:2]
    tokens = k.shape[-3] if "fmha" in name else k.shape[-2]  # cuDNN has (B, S, K, d), splash (B, K, S, d)
    return 2 * products * math.prod(q.shape) * tokens
