"""Dense: the packed weight, the GEMM and its epilogue."""

from tvmlayers import layers
from tvmlayers.artifact.panels import pack_bias, pack_kernel, panel_layout
from tvmlayers.codegen.cpu.activation import elementwise_function, softmax_core
from tvmlayers.codegen.cpu.gemm import GemmSpec
from tvmlayers.codegen.cpu.gemm_driver import gemm_functions
from tvmlayers.codegen.cpu.kernel import Functions, Kernel, Lowered, Use, elements, report
from tvmlayers.codegen.weights import ArenaPlan, Packed
from tvmlayers.expr.activations import CHEAP, ROW_ACTIVATIONS
from tvmlayers.schedule import Selector, vector_tile
from tvmlayers.spaces import gemm
from tvmlayers.workload import Workload


def lower_dense(use: Use, name: str, selector: Selector, arena: ArenaPlan) -> Lowered:
    layer, target = use.layer, selector.target
    assert isinstance(layer, layers.Dense)
    weights = layer.weights
    k, n = weights["kernel"].shape
    lanes, width = target.lanes(layer.dtype), gemm.panel_width(k, n, layer.dtype, target)
    layout = panel_layout(
        k,
        n,
        width=width,
        lanes=lanes,
        dtype=layer.dtype,
        has_parts=gemm.packs_parts(k, n, layer.dtype, target),
    )
    packed = Packed(
        (layout.size,),
        layer.dtype,
        lambda out: pack_kernel(weights["kernel"], layout, out),
        layout.describe(),
    )
    names = [arena.add(f"{layer.name}/kernel", packed)]
    if layer.use_bias:
        bias = Packed(
            (layout.columns,), layer.dtype, lambda out: pack_bias(weights["bias"], layout, out)
        )
        names.append(arena.add(f"{layer.name}/bias", bias))
    over_row = layer.activation in ROW_ACTIVATIONS
    functions: Functions = {}
    row_softmax = None
    if over_row:
        row_softmax, _ = softmax_core(
            f"{name}_softmax", n, layer.activation, layer.dtype, selector, functions
        )
    workload = Workload.make(
        "dense", m=1, k=k, n=n, dtype=layer.dtype, activation=activation_name(layer)
    )
    regimes = selector.regimes(workload)
    entry, made = gemm_functions(
        name,
        GemmSpec(
            layout,
            lanes,
            vector_tile(k, n, layer.dtype, target),
            gemm.tail_tiles(k, n, layer.dtype, target) if layout.tail else (),
            regimes,
            elementwise_function("linear" if over_row else layer.activation),
            cheap=over_row or layer.activation in CHEAP,
            use_bias=layer.use_bias,
        ),
        row_softmax,
    )
    itemsize = weights["kernel"].itemsize
    kernel = Kernel(
        name,
        entry,
        {**functions, **made},
        scalars=lambda shapes: [elements(shapes[0][:-1])],
        report=report(
            workload,
            regimes,
            layer.name,
            flops=2 * k * n,
            bytes_per_item=(k + n) * itemsize,
            weight_bytes=(layout.k * layout.columns + layer.use_bias * layout.columns) * itemsize,
        ),
    )
    return Lowered(kernel, tuple(names))


def activation_name(layer: layers.Dense) -> str:
    return layer.activation if isinstance(layer.activation, str) else "custom"
