"""Training steps: forwards, backwards and update of a model as one compiled function."""

from tvmlayers.codegen.training.compiler import compile_step

__all__ = ["compile_step"]
