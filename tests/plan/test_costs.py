"""Costs read from compiled programs: loops count by their trips, collectives by what a ring sends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ega_jax.plan.costs import Costs, costs_of
from ega_jax.plan.groups import replica_groups
from ega_jax.plan.hlo import parse

LAYERS, ROWS, WIDTH, DEVICES = 5, 64, 48, 8
ISLANDS = [device // 4 for device in range(DEVICES)]


def compiled_costs(unroll: int) -> Costs:
    """Of a gradient through layers whose weights are gathered from 8 devices, as in the trainer."""
    mesh = jax.make_mesh((DEVICES,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    weights = jax.ShapeDtypeStruct(
        (LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp", None))
    )
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P("fsdp", None)))

    def loss(weights, x):
        def layer(x, weight):
            whole = jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, P()))
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ whole), NamedSharding(mesh, P("fsdp", None))), None

        return jnp.sum(jax.lax.scan(layer, x, weights, unroll=unroll)[0] ** 2)

    program = jax.jit(jax.grad(loss)).lower(weights, x).compile()
    return costs_of(parse(program.as_text()), ISLANDS)


def test_a_loop_costs_what_it_does_unrolled():
    rolled, unrolled = compiled_costs(1), compiled_costs(LAYERS)
    # Forward, by the weights, and by the inputs: of the first layer those are not wanted, but a loop makes them.
    one = 2 * (ROWS // DEVICES) * WIDTH * WIDTH
    assert rolled.flops == 3 * LAYERS * one
    assert unrolled.flops in (rolled.flops, rolled.flops - one)
    assert rolled.unknown_loops == unrolled.unknown_loops == 0

    gathered = LAYERS * (DEVICES - 1) * WIDTH * WIDTH * 4 // DEVICES
    assert rolled.sent["all-gather", "slow"] % gathered == 0
    reduced = sum(size for (kind, _), size in unrolled.sent.items() if kind in ("all-reduce", "reduce-scatter"))
    assert reduced == sum(size for (kind, _), size in rolled.sent.items() if kind in ("all-reduce", "reduce-scatter"))
    assert rolled.calls["all-gather", "slow"] >= LAYERS


def test_a_collective_within_an_island_is_fast():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def work(x):
        inner = jax.lax.psum(x, "fsdp")
        return jax.lax.all_gather(inner, "data", tiled=True)

    mapped = jax.shard_map(work, mesh=mesh, in_specs=P(("data", "fsdp")), out_specs=P(None), check_vma=False)
    program = jax.jit(mapped).lower(jax.ShapeDtypeStruct((8, 16), jnp.float32)).compile()
    costs = costs_of(parse(program.as_text()), ISLANDS)
    assert costs.sent == {("all-reduce", "fast"): 2 * 3 * 64 // 4, ("all-gather", "slow"): 64}


# As XLA writes them for TPUs: the trip count is in the condition alone, and attributes have line breaks.
TPU = """HloModule jit_step, is_scheduled=true

%fused.1 (p.0: bf16[8,16], p.1: bf16[16,4]) -> bf16[8,4] {
  %p.0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[16,4]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[8,4]{1,0} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}

%body.1 (b: (s32[], bf16[8,16], bf16[2,4])) -> (s32[], bf16[8,16], bf16[2,4]) {
  %b = (s32[]{:T(128)}, bf16[8,16]{1,0}, /*index=2*/bf16[2,4]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %x = bf16[8,16]{1,0} get-tuple-element(%b), index=1
  %w = bf16[2,4]{1,0} get-tuple-element(%b), index=2
  %gathered = bf16[16,4]{1,0} all-gather(%w), replica_groups=mesh['a'=8,'b'=1,'c'=2], device_ids=([2,8]T(1,0)) {'a'}, dimensions={0}
  %splash_mha_fwd.1 = (f32[4,512,128]{2,1,0}, bf16[1,6,32,8]{3,2,1,0}) custom-call(%q, %k, %k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"block": 512
}}
  %q = bf16[1,6,32,8]{3,2,1,0} parameter(1)
  %k = bf16[1,2,32,8]{3,2,1,0} parameter(2)
  %y = bf16[8,4]{1,0} fusion(%x, %gathered), kind=kOutput, calls=%fused.1
  ROOT %t = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[2,4]{1,0}) tuple(%next, %x, %w)
}

%condition.1 (c: (s32[], bf16[8,16], bf16[2,4])) -> pred[] {
  %c = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[2,4]{1,0}) parameter(0)
  %last = s32[]{:T(128)} constant(26)
  %at = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%at, %last), direction=LT
}

ENTRY %main (x: bf16[8,16], w: bf16[2,4]) -> bf16[8,16] {
  %x.1 = bf16[8,16]{1,0} parameter(0)
  %w.1 = bf16[2,4]{1,0} parameter(1)
  %zero = s32[]{:T(128)} constant(INITIAL)
  %copy.1 = s32[]{:T(128)} copy(%zero)
  %start = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[2,4]{1,0}) tuple(%copy.1, %x.1, %w.1)
  %loop = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[2,4]{1,0}) while(%start), condition=%condition.1, body=%body.1
  ROOT %out = bf16[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_a_tpus_loop_is_read_from_its_condition():
    costs = costs_of(parse(TPU.replace("INITIAL", "3")), [0] * 16)
    trips = 23
    attention = 2 * 2 * 6 * 32 * 32 * 8
    assert costs.flops == trips * (2 * 8 * 16 * 4 + attention)
    assert costs.sent == {("all-gather", "fast"): trips * 7 * 2 * 4 * 2}
    assert costs.calls == {("all-gather", "fast"): trips}


def test_a_loop_without_a_bound_is_told():
    costs = costs_of(parse(TPU.replace("constant(INITIAL)", "parameter(2)")), [0] * 16)
    assert costs.unknown_loops == 1
    assert costs.calls == {("all-gather", "fast"): 1}


# A gather that goes on beside a product: as XLA writes it for TPUs, in three pieces.
GATHER = (
    "bf16[16,4]{1,0} all-gather(%w), channel_id=7, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, "
    'frontend_attributes={chain_id="3"}'
)
PIECES = f"""HloModule jit_step, is_scheduled=true

%begin (w: bf16[2,4]) -> (bf16[2,4], bf16[16,4], u32[]) {{
  %w = bf16[2,4]{{1,0}} parameter(0)
  %gather.1 = {GATHER}
  ROOT %start.1 = (bf16[2,4]{{1,0}}, bf16[16,4]{{1,0}}, u32[]) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}}

%beside (w: bf16[2,4], whole: bf16[16,4], flag: u32[], x: bf16[8,16], y: bf16[16,32]) -> (bf16[8,32], bf16[2,4], bf16[16,4], u32[]) {{
  %w = bf16[2,4]{{1,0}} parameter(0)
  %whole = bf16[16,4]{{1,0}} parameter(1)
  %flag = u32[] parameter(2)
  %x = bf16[8,16]{{1,0}} parameter(3)
  %y = bf16[16,32]{{1,0}} parameter(4)
  %gather.2 = {GATHER}
  %convolution.1 = bf16[8,32]{{1,0}} convolution(%x, %y), dim_labels=bf_io->bf
  ROOT %t = (bf16[8,32]{{1,0}}, bf16[2,4]{{1,0}}, bf16[16,4]{{1,0}}, bf16[16,4]{{1,0}}, u32[]) tuple(%convolution.1, %w, %whole, %gather.2, %flag)
}}

%end (w: bf16[2,4], whole: bf16[16,4], flag: u32[]) -> bf16[16,4] {{
  %w = bf16[2,4]{{1,0}} parameter(0)
  %whole = bf16[16,4]{{1,0}} parameter(1)
  %flag = u32[] parameter(2)
  %gather.3 = {GATHER}
  ROOT %done.1 = bf16[16,4]{{1,0}} custom-call(%w, %whole, %gather.3, %flag), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (w: bf16[2,4], x: bf16[8,16], y: bf16[16,32]) -> bf16[16,4] {{
  %w.1 = bf16[2,4]{{1,0}} parameter(0)
  %x.1 = bf16[8,16]{{1,0}} parameter(1)
  %y.1 = bf16[16,32]{{1,0}} parameter(2)
  %start = (bf16[2,4]{{1,0}}, bf16[16,4]{{1,0}}, u32[]) fusion(%w.1), kind=kCustom, calls=%begin
  %w.2 = bf16[2,4]{{1,0}} get-tuple-element(%start), index=0
  %whole.2 = bf16[16,4]{{1,0}} get-tuple-element(%start), index=1
  %flag.2 = u32[] get-tuple-element(%start), index=2
  %product = (bf16[8,32]{{1,0}}, bf16[2,4]{{1,0}}, bf16[16,4]{{1,0}}, bf16[16,4]{{1,0}}, u32[]) fusion(%w.2, %whole.2, %flag.2, %x.1, %y.1), kind=kOutput, calls=%beside
  %w.3 = bf16[2,4]{{1,0}} get-tuple-element(%product), index=1
  %whole.3 = bf16[16,4]{{1,0}} get-tuple-element(%product), index=2
  %flag.3 = u32[] get-tuple-element(%product), index=4
  ROOT %gathered = bf16[16,4]{{1,0}} fusion(%w.3, %whole.3, %flag.3), kind=kCustom, calls=%end
}}
"""  # noqa: E501


def test_a_tpus_collective_in_pieces_counts_once():
    costs = costs_of(parse(PIECES), [0] * 8)
    assert costs.calls == {("all-gather", "fast"): 1}
    assert costs.sent == {("all-gather", "fast"): 7 * 2 * 4 * 2}
    assert costs.flops == 2 * 8 * 16 * 32
    # What the gather starts with, read and written; of the fusion beside it, the product's alone.
    assert costs.memory_bytes == 2 * (2 * 4 * 2) + 2 * (8 * 16 + 16 * 32 + 8 * 32)


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_replica_groups_in_every_spelling(written, groups):
    np.testing.assert_array_equal(replica_groups(written, 4), groups)


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="unknown replica groups"):
        replica_groups("replica_groups=other", 4)
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule empty")
