"""Compiling for NVIDIA GPUs: the same line as for CPUs, with kernels that many threads share."""

from tvmlayers.codegen.cuda.compiler import compile_cuda

__all__ = ["compile_cuda"]
