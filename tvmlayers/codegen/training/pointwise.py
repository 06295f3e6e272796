"""The value of a loss that is an expression of two elements, without a step around it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import te

from tvmlayers.expr.losses import pointwise
from tvmlayers.runtime import ffi
from tvmlayers.training.losses import Loss


def evaluate(loss: Loss, y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[np.float64]:
    """The loss of each element, in float64; both of one shape."""
    made = np.zeros(y_pred.shape)
    flat = [np.ascontiguousarray(each, np.float64).ravel() for each in (y_true, y_pred)]
    if made.size:
        _compiled(loss)(*(ffi.from_array(each) for each in (*flat, made.ravel())))
    return made


@lru_cache(maxsize=8)
def _compiled(loss: Loss) -> Any:
    formula = pointwise(loss)
    assert formula is not None
    n = te.var("n")
    truth, prediction = (te.placeholder((n,), "float64", name) for name in ("y_true", "y_pred"))
    value = te.compute((n,), lambda i: formula.value(truth[i], prediction[i]), "value")
    function = te.create_prim_func([truth, prediction, value])
    return tvm.compile(tvm.IRModule({"main": function}), target="llvm")["main"]
