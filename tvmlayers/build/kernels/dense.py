"""Dense: the packed weight, the GEMM and its epilogue."""

from tvmlayers import layers, schedule
from tvmlayers.build.kernels.activation import elementwise_function, softmax_core
from tvmlayers.build.kernels.gemm import gemm_functions
from tvmlayers.build.kernels.kernel import Functions, Kernel, Lowered, Use, elements
from tvmlayers.build.weights import ArenaPlan
from tvmlayers.expr.activations import CHEAP, ROW_ACTIVATIONS
from tvmlayers.pack import pack_bias, pack_kernel, panel_layout
from tvmlayers.targets import Target


def lower_dense(use: Use, name: str, target: Target, arena: ArenaPlan) -> Lowered:
    layer = use.layer
    assert isinstance(layer, layers.Dense)
    weights = layer.weights
    k, n = weights["kernel"].shape
    plan = schedule.gemm_plan(k, n, layer.dtype, target)
    layout = panel_layout(k, n, width=plan.width, lanes=plan.lanes, dtype=layer.dtype)
    names = [
        arena.add(f"{layer.name}/kernel", pack_kernel(weights["kernel"], layout), layout.describe())
    ]
    if layer.use_bias:
        names.append(arena.add(f"{layer.name}/bias", pack_bias(weights["bias"], layout)))
    over_row = layer.activation in ROW_ACTIVATIONS
    activation = elementwise_function("linear" if over_row else layer.activation)
    functions: Functions = {}
    row_softmax = None
    if over_row:
        row_softmax = softmax_core(
            f"{name}_softmax", n, layer.activation, layer.dtype, target, functions
        )
    entry, made = gemm_functions(
        name,
        plan,
        layout,
        activation=activation,
        cheap=over_row or layer.activation in CHEAP,
        use_bias=layer.use_bias,
        row_softmax=row_softmax,
    )
    report = {
        "kind": "dense",
        "layer": layer.name,
        "k": k,
        "n": n,
        "dtype": layer.dtype,
        "schedule": schedule.SOURCE,
        "flops_per_row": 2 * k * n,
        "weight_bytes": layout.k * layout.columns * weights["kernel"].itemsize,
        "decisions": {
            "panel": plan.width,
            "rows": list(plan.full_rows),
            "k_unroll": plan.decisions(6)["k_unroll"],
        },
    }
    kernel = Kernel(
        name,
        entry,
        {**functions, **made},
        scalars=lambda shapes: [elements(shapes[0][:-1])],
        report=report,
    )
    return Lowered(kernel, tuple(names))
