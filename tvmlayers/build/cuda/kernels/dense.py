"""Dense on a GPU: W padded to whole tiles, a kernel for each tile that some batch takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.ir import Expr, GlobalVar
from tvm.tirx import PrimFunc, Var

from tvmlayers import layers
from tvmlayers.build import emit
from tvmlayers.build.cuda import launch
from tvmlayers.build.cuda.kernels.rows import softmax_function
from tvmlayers.build.cuda.kernels.tensor_block import TensorDense
from tvmlayers.build.cuda.kernels.tensor_gemm import put_tensor_gemm
from tvmlayers.build.kernels import Kernel, Lowered, Use, elements
from tvmlayers.build.kernels.activation import elementwise_function
from tvmlayers.build.kernels.dense import activation_name
from tvmlayers.build.kernels.kernel import Functions, report
from tvmlayers.build.weights import ArenaPlan, Packed
from tvmlayers.expr.activations import ROW_ACTIVATIONS
from tvmlayers.expr.expression import Expression
from tvmlayers.expr.gemm import split_gemm, tiled_gemm
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.spaces import cuda_gemm
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.cuda_lookup import vector_width
from tvmlayers.spaces.cuda_tensor_gemm import pipeline, tensor_tile
from tvmlayers.targets import CudaTarget
from tvmlayers.workload import Workload

# Writes the kernel where it is called, on x, w, b if there is one and the result, for m rows of x.
Put = Callable[[list[Var], Expr], None]


def lower_dense(use: Use, name: str, selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    layer, target = use.layer, selector.target
    assert isinstance(layer, layers.Dense)
    weights, dtype = layer.weights, layer.dtype
    k, n = weights["kernel"].shape
    padded = -(-k // max(cuda_gemm.K_STEPS)) * max(cuda_gemm.K_STEPS), cuda_gemm.padded_columns(n)
    names = [arena.add(f"{layer.name}/kernel", _padded(weights["kernel"], padded))]
    if layer.use_bias:
        names.append(arena.add(f"{layer.name}/bias", _padded(weights["bias"], padded[1:])))
    over_row = layer.activation in ROW_ACTIVATIONS
    activation = elementwise_function("linear" if over_row else layer.activation)
    workload = Workload.make("dense", m=1, k=k, n=n, dtype=dtype, activation=activation_name(layer))
    regimes = selector.regimes(workload)
    made: list[tuple[int | None, Put]] = []
    for regime in regimes:
        gemm = _gemm(k, n, padded, regime.decisions, target, activation, layer.use_bias, dtype)
        made.append((regime.most, gemm))
    functions: Functions = {}
    softmax = None
    if over_row:
        softmax = GlobalVar(f"{name}_softmax")
        functions[softmax] = softmax_function(n, layer.activation, dtype, selector, in_place=True)
    entry = GlobalVar(name)
    functions[entry] = _launching(made, layer.use_bias, softmax, dtype)
    itemsize = weights["kernel"].itemsize
    kernel = Kernel(
        name,
        entry,
        functions,
        scalars=lambda shapes: [elements(shapes[0][:-1])],
        report=report(
            workload,
            regimes,
            layer.name,
            flops=2 * k * n,
            bytes_per_item=(k + n) * itemsize,
            weight_bytes=(padded[0] + layer.use_bias) * padded[1] * itemsize,
        ),
    )
    return Lowered(kernel, tuple(names))


def _gemm(
    k: int,
    n: int,
    padded: tuple[int, int],
    decisions: Decisions,
    target: CudaTarget,
    activation: Callable[[Expr], Expr],
    use_bias: bool,
    dtype: str,
) -> Put:
    """The kernel that `decisions` name."""
    tensor = tensor_tile(decisions, padded[1], k, dtype)
    if tensor is not None:
        stages = pipeline(tensor, decisions, target)
        vector = vector_width(k, target.lanes(dtype))
        dense = TensorDense(k, n, padded, stages, vector, activation, use_bias)
        return partial(put_tensor_gemm, dense)
    tile = cuda_gemm.block_tile(decisions, n, dtype, target)
    if tile is None:
        rows, columns, slices = cuda_gemm.split_tile(decisions, n)
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
        )
        function = launch.scheduled(
            expression, lambda sch: cuda_gemm.split_blocks(sch, slices=slices)
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
) -> PrimFunc:
    """`f(x, w, [b], out, m, device)`: the kernel for m rows, then the softmax in place."""

    def body() -> None:
        names = ["x", "w", *(["b"] if use_bias else []), "out"]
        pointers = [emit.argument(name, f"*{dtype}") for name in names]
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


def _padded(weight: NDArray[Any], shape: tuple[int, ...]) -> Packed:
    """`weight` in the corner of zeros of that shape."""

    def write(out: NDArray[np.generic]) -> None:
        out[tuple(slice(0, size) for size in weight.shape)] = weight

    layout = {"kind": "padded", "shape": list(weight.shape)}
    return Packed(shape, weight.dtype.name, write, layout)
