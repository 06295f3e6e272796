"""Kernels on a GPU of layers that are a formula: element by element, and normalisations of rows."""

from functools import partial

import tvm
from tvm import tirx
from tvm.ir import Call, Expr
from tvm.tirx import PrimFunc
from tvm_ffi import structural_map

from tvmlayers.codegen.cpu import Lowered, Use, elements
from tvmlayers.codegen.cpu.elementwise import packed_operands, planned
from tvmlayers.codegen.cpu.kernel import Shapes
from tvmlayers.codegen.cpu.normalization import parts_of
from tvmlayers.codegen.cuda.kernels.rows import kernel, launching
from tvmlayers.codegen.weights import ArenaPlan
from tvmlayers.expr.elementwise import broadcast
from tvmlayers.expr.normalization import normalized
from tvmlayers.operations import operation_of
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.spaces import cuda_rows

_BY_LLVM = tvm.ir.Op.get("tirx.call_llvm_pure_intrin")


def lower_elementwise(use: Use, name: str, _selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    dtype, work = use.dtype(0), planned(use, arena)
    expression = broadcast(work.function, work.operands, work.lengths, dtype)
    pointers = [(f"x{i}", each.dtype) for i, each in enumerate(work.operands)]
    function = launching(
        expression,
        cuda_rows.spread,
        [*pointers, ("out", dtype)],
        in_place=True,  # a tensor with itself
    )
    described = {"kind": "elementwise", "layer": use.layer.name, "dtype": dtype}
    return kernel(name, _in_cuda(function), work.rows, described, weights=work.weights)


def lower_normalization(use: Use, name: str, _selector: CudaSelector, arena: ArenaPlan) -> Lowered:
    dtype, (layer, made_of) = use.dtype(0), parts_of(use)
    n, first = layer.width, use.inputs[0].rank - len(layer.axes)
    packed = packed_operands(layer, dtype, arena)
    expression, rows = normalized(
        operation_of(layer).part("formula"),
        layer,
        made_of,
        len(use.inputs),
        len(packed),
        n,
        lanes=1,
        dtype=dtype,
    )
    function = launching(
        expression,
        partial(
            cuda_rows.normalized_rows,
            stages=rows.stages,
            sums=rows.sums,
            n=n,
            is_made=made_of is not None,
        ),
        [
            *((f"x{i}", dtype) for i in range(len(use.inputs))),
            *((f"w{i}", each.dtype) for i, each in enumerate(packed)),
            ("out", dtype),
        ],
        in_place=True,
    )
    described = {"kind": "normalization", "layer": layer.name, "dtype": dtype, "n": n}
    weights = tuple(each.name for each in packed)

    def rows_of(shapes: Shapes) -> list[Expr]:
        return [elements(shapes[0][:first])]

    return kernel(name, _in_cuda(function), rows_of, described, weights=weights)


def _in_cuda(function: PrimFunc) -> PrimFunc:
    """`function` with the maxima and minima of `expr.formulas` by their names in CUDA's source."""

    def rename(call: Call) -> Call:
        if not call.op.same_as(_BY_LLVM):
            return call
        number, *operands = call.args
        intrinsic = tvm.target.codegen.llvm_get_intrinsic_name(int(number))
        name = intrinsic.replace("llvm.", "tvmlayers_")
        return tirx.call_pure_extern(call.ty.dtype, name, *operands)

    return function.with_body(structural_map(function.body, (Call, rename)))
