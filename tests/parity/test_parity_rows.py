"""What is compiled for each x86 target that this CPU runs is right: a part of what `native` gets.

The other files ask everything of `native` alone. Here is what differs between targets: vectors,
register tiles, remainders, masks, streaming stores.
"""

from __future__ import annotations

import numpy as np
import pytest
from agreement import BATCHES, Twin, indices, normal, on_cpu
from samples import every_input, sample
from test_parity_activations import (
    ELEMENTWISE,
    FUSED,
    all_elementwise,
    assert_close,
    edges,
    near_zero,
    rows,
)
from test_parity_bag import bag, lengths_of, ragged
from test_parity_chain import BATCHES as CHAINED
from test_parity_chain import seed
from test_parity_dense import ODD_SIZES, chosen, features
from test_parity_embedding import FORGIVING, ROWS, tables
from test_parity_memory import beyond, written_past_caches
from test_parity_normalization import norms

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.layers.embedding_bag import MODES

pytestmark = on_cpu
DTYPES = ("float32", "float64")


OTHERS = [
    row.name
    for row in reversed(targets.x86.ROWS)
    if row.name != targets.native().name and not targets.obstacle(row.triple, row.cpu_flags)
]
every_row = pytest.mark.parametrize("target", OTHERS)


@every_row
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_kernel_is_right_for_every_batch(target: str, dtype: str) -> None:
    twin = sample(dtype, target)
    assert twin.compiled.target == target
    twin.agrees_for_every_batch(*every_input(333, dtype))


@every_row
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_layers_of_odd_sizes_agree_for_every_batch(target: str, dtype: str) -> None:
    units = ODD_SIZES[2:] + ODD_SIZES[:2]
    twin = chosen(units, "relu", True, dtype, target)
    twin.agrees_for_every_batch(*features(333, dtype))


@every_row
def test_a_dense_layer_in_blocks_of_k_agrees(target: str) -> None:
    twin = Twin(tl.Dense(100, "gelu", input_dim=4099), target=target)
    twin.agrees_for_every_batch(normal(65, 4099), batches=(1, 2, 7, 64, 65))


@every_row
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_activation_is_pytorchs_at_the_edges_and_near_zero(target: str, dtype: str) -> None:
    twin = all_elementwise(dtype, target)
    for values in (edges, near_zero):
        x = values(dtype)
        given, wanted = twin.compiled(x), twin.reference(x)
        for place, name in enumerate(ELEMENTWISE):
            assert_close(given[place], wanted[place], dtype, name)
            place += FUSED
            assert_close(given[place], wanted[place], dtype, f"{name} fused")


@every_row
def test_softmax_over_rows_is_pytorchs(target: str) -> None:
    scales = np.array([1.0, 1e-30, 30.0, 1e4] * 10, "float32")[:, None]
    rows(17, "float32", target).agrees_for_every_batch(normal(40, 17) * scales, batches=range(41))


@every_row
@pytest.mark.parametrize("oob", ["raise", "zero"])
def test_tables_of_every_width_give_their_rows(target: str, oob: str) -> None:
    twin = tables(oob, "float32", target)
    twin.agrees_for_every_batch(indices(ROWS, 333, 3))
    far = np.random.default_rng(0).choice(np.array([-1, -(2**63), 2**63 - 1, ROWS, 5]), (50, 7))
    if oob in FORGIVING:
        twin.agrees(far)
    else:
        with pytest.raises(tl.IndexOutOfRangeError):
            twin.compiled(far)


@every_row
def test_a_result_past_the_caches_may_begin_at_any_address(target: str) -> None:
    written_past_caches(target, "float32")


@every_row
@pytest.mark.parametrize("mode", MODES)
def test_bags_agree_in_both_forms(target: str, mode: str) -> None:
    twin = bag(mode, 30, target=target)
    for batch in (0, 1, 2, 7, 40, 333):
        ids, offsets = ragged(lengths_of(batch), False)
        twin.agrees(ids, offsets=offsets)
        twin.agrees(indices(ROWS - 36, batch, 17))


@every_row
@pytest.mark.parametrize("threads", [1, 3])
def test_a_chain_agrees_for_every_batch(target: str, threads: int) -> None:
    seed(target).compiled.threads = threads
    seed(target).agrees_for_every_batch(indices(50, 600, 10), batches=CHAINED)


@every_row
def test_products_of_vectors_agree(target: str) -> None:
    x = tl.Input((9, 20))
    twin = Twin(tl.Model(x, [tl.DotInteraction()(x), tl.Dot(2)([x, x])]), target=target)
    twin.agrees_for_every_batch(normal(40, 9, 20), batches=[b for b in BATCHES if b <= 40])


@every_row
def test_normalisations_agree(target: str) -> None:
    norms(100, target=target).agrees(normal(50, 100), normal(50, 100, seed=2))


@every_row
def test_nothing_is_read_or_written_beyond_any_array(target: str) -> None:
    beyond(target)
