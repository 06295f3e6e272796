"""Dense on a GPU: W padded to whole tiles, a kernel for each tile that some batch takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var

from tvmlayers import layers
from tvmlayers.artifact.panels import PaddedLayout, pack_padded
from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu import Kernel, Lowered, Use, elements
from tvmlayers.codegen.cpu.activation import elementwise_function
from tvmlayers.codegen.cpu.dense import activation_name
from tvmlayers.codegen.cpu.kernel import Functions, Shapes, report
from tvmlayers.codegen.cuda import launch
from tvmlayers.codegen.cuda.kernels.rows import softmax_function
from tvmlayers.codegen.cuda.kernels.tensor_block import TensorDense
from tvmlayers.codegen.cuda.kernels.tensor_gemm import put_tensor_gemm
from tvmlayers.codegen.weights import ArenaPlan, Packed
from tvmlayers.dtypes import is_half, wide
from tvmlayers.expr.activations import ROW_ACTIVATIONS
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.gemm import split_gemm, tiled_gemm
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.spaces import cuda_gemm
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.cuda_lookup import vector_width
from tvmlayers.spaces.cuda_tensor_gemm import depth_of, k_unit, pipeline, tensor_tile
from tvmlayers.targets import CudaTarget
from tvmlayers.workload import Workload

# Writes the kernel where it is called, on x, w, b if there is one and the result, for m rows of x.
Put = Callable[[list[Var], Expr], None]


def lower_dense(use: Use, name: str, selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    layer, target = use.layer, selector.target
    assert isinstance(layer, layers.Dense)
    weights, dtype = layer.rounded_weights(), layer.dtype
    k, n = weights["kernel"].shape
    unit = k_unit(dtype)
    padded = -(-k // unit) * unit, cuda_gemm.padded_columns(n)
    names = [arena.add(f"{layer.name}/kernel", _kernel(weights["kernel"], padded))]
    if layer.use_bias:
        names.append(arena.add(f"{layer.name}/bias", _bias(weights["bias"], padded[1])))
    over_row = layer.activation in ROW_ACTIVATIONS
    activation = elementwise_function("linear" if over_row else layer.activation)
    workload = Workload.make("dense", m=1, k=k, n=n, dtype=dtype, activation=activation_name(layer))
    regimes = selector.regimes(workload)
    # A softmax of halves takes sums that were not rounded yet.
    between = wide(dtype) if over_row and is_half(dtype) else ""
    made: list[tuple[int | None, Put]] = []
    for regime in regimes:
        gemm = _gemm(
            k, n, padded, regime.decisions, target, activation, layer.use_bias, dtype, between
        )
        made.append((regime.most, gemm))
    functions: Functions = {}
    softmax, then = None, None
    if over_row and between:
        then = _softmax_of(between, n, f"{name}_softmax", layer, selector)
    elif over_row:
        softmax = GlobalVar(f"{name}_softmax")
        functions[softmax] = softmax_function(n, layer.activation, dtype, selector, in_place=True)
    entry = GlobalVar(name)
    functions[entry] = _launching(made, layer.use_bias, softmax, dtype, between or dtype)
    itemsize = weights["kernel"].itemsize
    kernel = Kernel(
        name,
        entry,
        functions,
        scalars=_rows_of,
        report=report(
            workload,
            regimes,
            layer.name,
            flops=2 * k * n,
            bytes_per_item=(k + n) * itemsize,
            weight_bytes=(padded[0] + layer.use_bias) * padded[1] * itemsize,
        ),
    )
    return Lowered(kernel, tuple(names), then=then, between=between)


def _softmax_of(
    between: str, n: int, name: str, layer: layers.Dense, selector: CudaSelector
) -> Lowered:
    """The softmax of a layer's sums, which lie in memory of their own."""
    entry = GlobalVar(name)
    function = softmax_function(
        n, layer.activation, between, selector, in_place=False, out_dtype=layer.dtype
    )
    return Lowered(Kernel(name, entry, {entry: function}, _rows_of, report={}), ())


def _rows_of(shapes: Shapes) -> list[Expr]:
    return [elements(shapes[0][:-1])]


def _gemm(
    k: int,
    n: int,
    padded: tuple[int, int],
    decisions: Decisions,
    target: CudaTarget,
    activation: Callable[[Expr], Expr],
    use_bias: bool,
    dtype: str,
    between: str,
) -> Put:
    """The kernel that `decisions` name. between: the dtype of its result, where not the layer's."""
    tensor = tensor_tile(decisions, padded[1], k, dtype)
    if tensor is not None:
        stages = pipeline(tensor, decisions, target)
        vector = vector_width(k, target.lanes(dtype))
        dense = TensorDense(k, n, padded, stages, vector, activation, use_bias)
        return partial(put_tensor_gemm, dense)
    tile = cuda_gemm.block_tile(decisions, n, dtype, target)
    if tile is None:
        rows, columns, slices = cuda_gemm.split_tile(decisions, n)
        depth = depth_of(dtype)
        expression = split_gemm(
            k,
            n,
            padded=padded,
            rows=rows,
            columns=columns,
            slices=slices,
            activation=activation,
            use_bias=use_bias,
            dtype=dtype,
            out_dtype=between or dtype,
            depth=depth,
        )
        vector = depth if k % depth == 0 else 1
        function = launch.scheduled(
            expression,
            lambda sch: cuda_gemm.split_blocks(sch, slices=slices, depth=depth, vector=vector),
        )
        return partial(_put, expression, function, rows)
    vector = vector_width(k, tile.lanes)
    expression = tiled_gemm(
        k,
        n,
        padded=padded,
        tile=tile,
        vector=vector,
        activation=activation,
        use_bias=use_bias,
        dtype=dtype,
    )
    function = launch.scheduled(
        expression,
        lambda sch: cuda_gemm.gemm_blocks(sch, tile=tile, vector=vector, decisions=decisions),
    )
    return partial(_put, expression, function, tile.rows)


def _put(
    expression: Expression, scheduled: PrimFunc, rows: int, pointers: list[Var], m: Expr
) -> None:
    launch.put(expression, scheduled, pointers, [m, emit.ceil_div(m, rows)])


def _launching(
    made: list[tuple[int | None, Put]],
    use_bias: bool,
    softmax: GlobalVar | None,
    dtype: str,
    out_dtype: str,
) -> PrimFunc:
    """`f(x, w, [b], out, m, device)`: the kernel for m rows, then the softmax in place."""

    def body() -> None:
        names = ["x", "w", *(["b"] if use_bias else [])]
        pointers = [emit.argument(name, f"*{dtype}") for name in names]
        pointers.append(emit.argument("out", f"*{out_dtype}"))
        m = emit.argument("m", "int64")
        device = emit.argument(launch.DEVICE, "int64")

        def run(put: Put) -> Callable[[], None]:
            return lambda: put(pointers, m)

        last = len(made) - 1
        emit.chain(
            [
                (None if i == last else m <= emit.i64(most or 0), run(put))
                for i, (most, put) in enumerate(made)
            ]
        )
        if softmax is not None:
            emit.call(softmax, pointers[-1], pointers[-1], m, device)

    return emit.private(body)


def _kernel(weight: NDArray[Any], padded: tuple[int, int]) -> Packed:
    """`weight` (k, n) in the corner of zeros, as its dtype's kernels read it."""
    (k, n), (rows, columns) = weight.shape, padded
    layout = PaddedLayout(k, n, rows, columns, depth_of(weight.dtype.name))

    def write(out: NDArray[Any]) -> None:
        pack_padded(weight, layout, out)

    return Packed(layout.shape, weight.dtype.name, write, layout.describe())


def _bias(weight: NDArray[Any], columns: int) -> Packed:
    """`weight` (n,) with zeros behind it."""

    def write(out: NDArray[Any]) -> None:
        out[: weight.shape[0]] = weight

    return Packed((columns,), weight.dtype.name, write)
