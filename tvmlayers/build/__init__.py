"""From a model to machine code for one target."""

from tvmlayers import _ffi

with _ffi.lean_imports():  # tvm would bring torch along, which takes seconds
    import tvm  # noqa: F401

from tvmlayers.build.compiler import compile

__all__ = ["compile"]
