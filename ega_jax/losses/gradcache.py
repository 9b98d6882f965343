"""Large batches for contrastive losses: encode in chunks, keep the embeddings, not the activations.

GradCache (Gao, Zhang, Han and Callan 2021, arXiv 2101.06983) encodes a batch chunk by chunk, differentiates the loss by
the embeddings, and encodes once more to carry those gradients back. In JAX that is a scan whose body is rematerialized:
autodiff does the rest, and nothing about the loss or the optimizer has to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ega_jax.losses import blocks

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray


def encode_in_chunks(
    encode: Callable[..., Any],
    parameters: Any,
    inputs: Any,
    *,
    chunk_size: int,
    key: PRNGKeyArray | None = None,
    policy: Callable[..., bool] | None = None,
) -> Any:
    """Returns `encode(parameters, inputs)`, holding the activations of one chunk of rows at a time.

    The gradient is that of the whole batch, exactly. It costs one more forward pass, and memory of the embeddings and
    of one chunk's activations.

        def loss_fn(parameters):
            q = encode_in_chunks(encode, parameters, queries, chunk_size=32)
            t = encode_in_chunks(encode, parameters, targets, chunk_size=32)
            return ega_loss(q, t)

        loss, gradients = jax.value_and_grad(loss_fn)(parameters)

    Where rows are sharded over devices, under `jit`, a chunk has rows of every device, `chunk_size` counts those of
    all, and no row moves between devices if the number of chunks divides each device's rows. Inside `jax.shard_map` it
    counts this device's.

    Args:
        encode: (parameters, chunk) -> array or tree of arrays with a leading axis of the chunk's rows; with `key`,
            (parameters, chunk, key). A row's result must depend on that row alone (no batch normalization), and what
            `encode` changes in a module (statistics, counters of random streams) is lost: draw from `key`.
        parameters: Any tree of arrays: a Linen `params` dict, an NNX state, an NNX module itself.
        inputs: Tree of arrays of N rows. Keys of each row, `jax.random.split(key, N)`, may be among them: then the same
            row draws the same noise whatever the chunks.
        chunk_size: Rows to encode at once. It need not divide N: missing rows are copies of the last one, whose results
            are dropped. Chunk c of C holds rows c, c + C, c + 2 C, ...
        key: One key, of which chunk c gets `jax.random.fold_in(key, c)`, in the backward pass too.
        policy: What the backward pass need not recompute, as in `jax.checkpoint`; None recomputes all.

    Returns:
        What `encode` returns for all N rows, in their order.

    Raises:
        ValueError: `chunk_size` is not positive, `inputs` have no or unequal numbers of rows, or `encode` returns
            another number of rows than it was given.
    """
    num_rows = _count_rows(inputs)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    num_chunks = -(-num_rows // chunk_size)

    def encode_chunk(parameters: Any, chunk: tuple[Any, Any]) -> Any:
        inputs, row_numbers = chunk
        keys = () if key is None else (jax.random.fold_in(key, row_numbers[0]),)
        outputs = encode(parameters, inputs, *keys)
        for output in jax.tree.leaves(outputs):
            if jnp.shape(output)[:1] != row_numbers.shape:
                raise ValueError(
                    f"encode returned shape {jnp.shape(output)} for a chunk of {len(row_numbers)} rows, which must be "
                    "its leading axis"
                )
        return outputs

    # The first row of chunk c is row c.
    rows = (inputs, jnp.arange(num_rows, dtype=jnp.int32))
    if num_chunks == 1:
        return encode_chunk(parameters, rows)
    # Real rows, for an encoder's gradient at zeros may be NaN, and 0 * NaN is no zero.
    missing = -num_rows % num_chunks
    rows = jax.tree.map(lambda x: _repeat_last(x, missing), rows)
    body = jax.checkpoint(encode_chunk, prevent_cse=False, policy=policy)
    _, outputs = blocks.scan(lambda chunk: (None, body(parameters, chunk)), rows, num_chunks)
    return jax.tree.map(lambda x: x[:num_rows], outputs)


def _count_rows(inputs: Any) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        raise ValueError(f"inputs must be arrays of equally many rows, at least one; got shapes {shapes}")
    return shapes[0][0]


def _repeat_last(array: Any, times: int) -> Any:
    array = jnp.asarray(array)
    if not times:
        return array
    return jnp.concatenate([array, jnp.broadcast_to(array[-1:], (times, *array.shape[1:]))])
