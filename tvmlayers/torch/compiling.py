"""`torch.compile(module, backend="tvmlayers")`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.backends.registry import lookup_backend
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from tvmlayers.errors import ConfigError
from tvmlayers.interop.building import Problem
from tvmlayers.torch.kernels import runnable
from tvmlayers.torch.part import Part
from tvmlayers.torch.partition import partitioned
from tvmlayers.torch.plain import needs_grad
from tvmlayers.torch.tracing import traced

RESTS = ("eager", "inductor")

SWITCHES = re.compile("autocast|set_grad_enabled|inference_mode|(in|de)crement_nesting")
"""Functions in a graph after which operators do something else."""

_log = logging.getLogger("tvmlayers.torch")


@dataclass(frozen=True)
class Options:
    """rest: what computes the rest, "eager" or "inductor"; target: the CPU to compile for.

    ConfigError for another rest, TargetError where this machine cannot run the target's code.
    """

    rest: str = "eager"
    target: str = "native"

    def __post_init__(self) -> None:
        if self.rest not in RESTS:
            raise ConfigError(f'options["rest"] is one of {", ".join(RESTS)}, got {self.rest!r}')
        runnable(self.target)


@dataclass(frozen=True)
class Taken:
    """What became of one graph of Dynamo's. left: what PyTorch computes, and why."""

    parts: list[Part]
    left: list[Problem]


def backend(
    graph: GraphModule,
    inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """A backend of `torch.compile`: the parts of a graph that layers compute run in compiled code.

    options: the fields of `Options`. Parameters are packed at the first call, and again when their
    version counters say that they have changed. Graphs that autograd follows, or that are not on
    the CPU, are left as they are.
    """
    if mode not in (None, "default"):
        raise ConfigError(f"the backend tvmlayers has no mode {mode!r}; leave mode= out")
    unknown = sorted(set(options or {}) - {"rest", "target"})
    if unknown:
        raise ConfigError(f"the backend tvmlayers has the options rest and target, got {unknown}")
    return compile_graph(graph, inputs, Options(**(options or {})))[0]


def compile_graph(
    graph: GraphModule, inputs: Sequence[Any], options: Options
) -> tuple[Callable[..., Any], Taken]:
    """(what computes the graph, what became of it)."""
    why = _why_not(graph, inputs)
    if why is None:
        try:
            made = traced(graph, inputs)
        except Exception as error:  # the operators' own code runs in there, and may raise anything
            why = f"it cannot be traced: {type(error).__name__}: {str(error).strip()}"
    if why is not None:
        _log.info("a graph is left to %s: %s", options.rest, why)
        return _rest(graph, inputs, options), Taken([], [Problem("the whole graph", why)])
    found = partitioned(made, options.target)
    for problem in found.left:
        _log.info("left to %s: %s", options.rest, problem)
    taken = Taken(found.parts, found.left)
    if not found.parts:
        return _rest(graph, inputs, options), taken
    if options.rest == "inductor":
        _give_rest_to_inductor(found.graph)
    return _whole(found.graph) or found.graph.forward, taken


def _whole(graph: GraphModule) -> Callable[..., Any] | None:
    """The short way through a graph that is one part with one result, else None.

    A call of the graph's own code and of a module in it takes as long as that of a small part.
    """
    calls = [node for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
    (end,) = graph.graph.find_nodes(op="output")
    if len(calls) != 1 or calls[0].op != "call_module" or list(end.args[0]) != calls:
        return None
    inputs = graph.graph.find_nodes(op="placeholder")
    part = graph.get_submodule(calls[0].target)
    take: Callable[..., tuple[Any]] = part.taking([inputs.index(each) for each in calls[0].args])
    return take


def _why_not(graph: GraphModule, inputs: Sequence[Any]) -> str | None:
    """Why a graph with these inputs is not for compiled code."""
    called = {getattr(node.target, "__name__", "") for node in graph.graph.nodes}
    switches = sorted(name for name in called if SWITCHES.search(name))
    if switches:
        return f"what its operators do is switched inside of it, by {', '.join(switches)}"
    if torch.is_autocast_enabled("cpu"):
        return "torch.autocast decides about the dtypes in it"
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    if needs_grad(tensors):
        return "autograd follows it: call it under torch.no_grad() or torch.inference_mode()"
    kinds = {type(tensor).__name__ for tensor in tensors} - {"Tensor", "Parameter"}
    if kinds:
        return f"it has tensors of other classes, {', '.join(sorted(kinds))}"
    devices = sorted({str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"})
    return f"it has tensors on {', '.join(devices)}" if devices else None


def _rest(graph: GraphModule, inputs: Sequence[Any], options: Options) -> Callable[..., Any]:
    if options.rest == "eager":
        run: Callable[..., Any] = graph.forward
        return run
    compiled: Callable[..., Any] = lookup_backend("inductor")(graph, inputs)
    return compiled


def _give_rest_to_inductor(graph: GraphModule) -> None:
    partitioner = CapabilityBasedPartitioner(graph, _Rest(), allows_single_node_partition=True)
    own = {node.target for node in graph.graph.find_nodes(op="call_module")}
    partitioner.fuse_partitions(partitioner.propose_partitions(), prefix="rest_")
    for node in graph.graph.find_nodes(op="call_module"):
        if node.target not in own:
            rest = torch.compile(graph.get_submodule(node.target), backend="inductor")
            setattr(graph, node.target, rest)
    graph.recompile()


class _Rest(OperatorSupportBase):  # type: ignore[misc]
    def is_node_supported(self, submodules: Mapping[str, object], node: Node) -> bool:
        return bool(node.op == "call_function")
