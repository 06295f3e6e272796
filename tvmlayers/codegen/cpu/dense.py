"""Dense: the packed weight, the GEMM and its epilogue."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from tvm.ir import Expr

from tvmlayers import layers
from tvmlayers.artifact.panels import PAIR, PanelLayout, pack_columns, pack_kernel, panel_layout
from tvmlayers.codegen.cpu.activation import elementwise_function, softmax_core, softmax_of_sums
from tvmlayers.codegen.cpu.gemm_driver import gemm_functions
from tvmlayers.codegen.cpu.gemm_tile import GemmSpec
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, Lowered, Use, elements, report
from tvmlayers.codegen.weights import ArenaPlan, Packed
from tvmlayers.dtypes import is_half, numpy_dtype, wide
from tvmlayers.expr.activations import CHEAP, ROW_ACTIVATIONS
from tvmlayers.expr.stored import KernelAs
from tvmlayers.quantization.columns import KERNEL, SCALES, codes
from tvmlayers.schedule import Regime, Selector, vector_tile
from tvmlayers.spaces import gemm
from tvmlayers.spaces.gemm import Tile
from tvmlayers.targets import Target
from tvmlayers.workload import Workload


def lower_dense(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    layer, target = use.layer, selector.target
    assert isinstance(layer, layers.Dense)
    k, n = layer.float_specs()["kernel"].shape
    traits = {"dtype": layer.dtype, "activation": activation_name(layer), "stored": layer.stored}
    workload = Workload.make("dense", m=1, k=k, n=n, **traits)
    lanes, width = target.lanes(layer.dtype), gemm.panel_width(k, n, layer.dtype, target)
    kept = KernelAs(layer.stored, k, gemm.depth_of(n, layer.stored, target))
    layout = panel_layout(
        k,
        n,
        width=width,
        lanes=lanes,
        dtype=kept.dtype if layer.is_quantized else layer.dtype,
        codes=kept.depth,
        has_parts=gemm.packs_parts(k, n, layer.stored, target),
        depth=gemm.panel_depth(workload, target),
    )
    names = _add_weights(layer, layout, kept, arena)
    over_row = layer.activation in ROW_ACTIVATIONS
    # Of halves it takes the sums as they are, in memory of their own.
    between = wide(layer.dtype) if over_row and is_half(layer.dtype) else ""
    functions: Functions = {}
    row_softmax = None
    if over_row and not between:
        row_softmax, _ = softmax_core(
            f"{name}_softmax", n, layer.activation, layer.dtype, selector, functions
        )
    regimes = selector.regimes(workload)
    spec = gemm_spec(
        layout,
        layer.dtype,
        regimes,
        target,
        activation=elementwise_function("linear" if over_row else layer.activation),
        cheap=over_row or layer.activation in CHEAP,
        use_bias=layer.use_bias,
        stored=layer.stored,
        out=between,
    )
    entry, made = gemm_functions(name, spec, row_softmax)
    itemsize = numpy_dtype(layer.dtype).itemsize
    kernel = Kernel(
        name,
        entry,
        {**functions, **made},
        scalars=lambda shapes: [elements(shapes[0][:-1])],
        report={
            **report(
                workload,
                regimes,
                layer.name,
                flops=2 * k * n,
                bytes_per_item=(k + n) * itemsize,
                weight_bytes=layout.rows
                * layout.depth
                * layout.columns
                * numpy_dtype(layout.dtype).itemsize
                + (len(names) - 1 + max(kept.groups - 1, 0)) * layout.columns * itemsize,
            ),
            **_stored_report(layer, regimes),
        },
    )
    then = softmax_of_sums(f"{name}_softmax", n, layer, selector) if between else None
    return Lowered(kernel, tuple(names), then=then, between=between)


def gemm_spec(
    layout: PanelLayout,
    dtype: str,
    regimes: Sequence[Regime],
    target: Target,
    *,
    activation: Callable[[Expr], Expr],
    cheap: bool,
    use_bias: bool,
    stored: str | None = None,
    out: str = "",
) -> GemmSpec:
    """What is computed with a weight of that layout."""
    k, n = layout.k, layout.n
    return GemmSpec(
        layout,
        dtype,
        KernelAs(
            stored or dtype, k, layout.codes, rows_of_pairs=layout.rows * (layout.depth == PAIR)
        ),
        target.lanes(dtype),
        vector_tile(k, n, dtype, target),
        gemm.tail_tiles(k, n, dtype, target) if layout.tail else (),
        regimes,
        activation,
        cheap,
        use_bias,
        out,
        gemm.byte_products(target),
    )


def _add_weights(
    layer: layers.Dense, layout: PanelLayout, kept: KernelAs, arena: ArenaPlan
) -> list[str]:
    """The names in the arena of a layer's weights, as kernels take them."""
    weights = layer.rounded_weights()
    kernel = weights[KERNEL]
    if layer.is_quantized and layer.stored == "bfloat16":
        kernel = kernel.view(np.uint16)
    elif kept.has_scales:
        kernel = codes(weights, layer.stored)

    def add(name: str, array: np.ndarray, layout: PanelLayout) -> str:
        pack = partial(pack_kernel, array, layout)
        packed = Packed((layout.size,), layout.dtype, pack, layout.describe())
        return arena.add(f"{layer.name}/{name}", packed)

    names = [add(KERNEL, kernel, layout)]
    if kept.has_scales:
        scales = weights[SCALES].reshape(-1, layout.n)
        of_groups = replace(layout, k=len(scales), dtype=layer.dtype, codes=1, has_parts=False)
        names.append(add(SCALES, scales, of_groups))
    if layer.use_bias:
        biases = Packed(
            (layout.columns,), layer.dtype, partial(pack_columns, weights["bias"], layout)
        )
        names.append(arena.add(f"{layer.name}/bias", biases))
    return names


def _stored_report(layer: layers.Dense, regimes: Sequence[Regime]) -> dict[str, Any]:
    """What the report says of a kernel in fewer bits: how far a sum of products may be off, for a
    row of x of Euclidean length 1; and from how many rows on panels are brought into floats, each
    once a call, where they are at all."""
    if not layer.is_quantized:
        return {}
    found: dict[str, Any] = layer.error_report("sum_error_bound")
    starts = [1, *(regime.most + 1 for regime in regimes if regime.most is not None)]
    unpacking = [
        start
        for start, regime in zip(starts, regimes, strict=True)
        if Tile.of(regime.decisions).unit in (gemm.AMX, gemm.UNPACKED)
    ]
    return {**found, "unpacked_from": min(unpacking)} if unpacking else found


def activation_name(layer: layers.Dense) -> str:
    return layer.activation if isinstance(layer.activation, str) else "custom"
