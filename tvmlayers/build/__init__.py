"""From a model to machine code for one target."""

from tvmlayers import _ffi as _first  # loads tvm_ffi without torch, which tvm would bring along
from tvmlayers.build.compiler import compile

__all__ = ["compile"]
