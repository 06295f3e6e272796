"""From a model to machine code for one target."""

from tvmlayers.lean import compiler_imports

with compiler_imports():
    import tvm  # noqa: F401

from tvmlayers.codegen.compiler import compile

__all__ = ["compile"]
