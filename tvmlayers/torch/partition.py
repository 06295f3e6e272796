"""Which parts of a graph become models of `tvmlayers`: the largest sub-graphs of its operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from tvmlayers.errors import TvmLayersError
from tvmlayers.interop.building import Problem, Unsupported
from tvmlayers.interop.torch.calls import Call, Plan, with_derived
from tvmlayers.interop.torch.reading import Reading, Source
from tvmlayers.torch.part import Part
from tvmlayers.torch.tracing import STATIC, is_mutable

HEAVY = {
    *("addmm", "bmm", "einsum", "embedding", "embedding_bag", "linalg_vecdot", "linear"),
    *("matmul", "mm", "tvmlayers::embedding", "tvmlayers::embedding_bag", "tvmlayers::linear"),
}
"""Operators that are worth a call of compiled code; others go along with them."""


@dataclass(frozen=True)
class Partition:
    """A graph whose taken parts are calls of modules. left: what PyTorch computes, and why."""

    graph: GraphModule
    parts: list[Part]
    left: list[Problem]


def partitioned(graph: GraphModule, target: str) -> Partition:
    """`graph`, changed in place, with a `Part` for each sub-graph that is taken."""
    mutable = [node for node in graph.graph.nodes if is_mutable(node)]
    if mutable:  # nothing may be moved past a change
        why = "it changes a tensor that others see"
        return Partition(graph, [], [_problem(node, why) for node in mutable])
    support = _Support(graph)
    partitioner = CapabilityBasedPartitioner(graph, support, allows_single_node_partition=True)
    chosen = [
        each
        for each in partitioner.propose_partitions()
        if any(_operator(node) in HEAVY for node in each.nodes)
    ]
    taken = {node for each in chosen for node in each.nodes}
    left = [
        _problem(node, support.why.get(node, "nothing beside it is worth a call"))
        for node in graph.graph.nodes
        if _is_tensor(node) and node not in taken and node not in support.constant
    ]
    partitioner.fuse_partitions(chosen, prefix="tvmlayers_part_")
    parts: list[Part] = []
    for node in graph.graph.find_nodes(op="call_module"):
        inner: GraphModule = graph.get_submodule(node.target)
        own = inner.graph.find_nodes(op="placeholder")
        for placeholder, outer in zip(own, node.args, strict=True):
            if STATIC in outer.meta:
                placeholder.meta[STATIC] = outer.meta[STATIC]
            else:
                placeholder.meta.pop(STATIC, None)
        parts.append(Part(inner, target))
        setattr(graph, node.target, parts[-1])
    graph.recompile()
    return Partition(graph, parts, left)


class _Support(OperatorSupportBase):  # type: ignore[misc]
    """Which nodes a layer computes, alone or together with those that its plan skips.

    why: of the others.
    """

    def __init__(self, graph: GraphModule) -> None:
        placeholders = graph.graph.find_nodes(op="placeholder")
        static = {node: node.meta["val"] for node in placeholders if STATIC in node.meta}
        names = {node: str(node.meta[STATIC]) for node in static}
        nodes = list(graph.graph.nodes)
        self.constant, derived = with_derived(nodes, static, names)
        self.why: dict[Node, str] = {}
        reading = Reading(Source(nodes, (), (), self.constant, derived))
        plans: dict[Node, Plan] = {}
        for node in nodes:
            if node.op == "call_function" and node not in self.constant:
                try:
                    plans[node] = reading.plan(node)
                except (Unsupported, TvmLayersError) as error:
                    self.why[node] = str(error)
        self._supported = self._closed(plans)

    def is_node_supported(self, submodules: Mapping[str, object], node: Node) -> bool:
        return node in self._supported

    def _closed(self, plans: dict[Node, Plan]) -> set[Node]:
        """The planned nodes and what they skip, without plans that skip what others need."""
        skipped = {node: self._skipped(node, plan) for node, plan in plans.items()}
        while True:
            taken = set(plans).union(*(skipped[node] for node in plans))
            shared = {n for n in taken if n not in plans and not taken.issuperset(n.users)}
            alone = {node for node in plans if any(map(_is_tensor, skipped[node] & shared))}
            if not alone:
                break
            for node in alone:
                del plans[node]
                self.why[node] = "a result on the way to it is used elsewhere"
        # A part does not give what it was given.
        for node in [n for n in taken if n in plans and plans[n].changes_nothing]:
            if not taken.issuperset(plans[node].takes) and not taken.issuperset(node.users):
                taken.discard(node)
                self.why[node] = "it changes nothing of an input"
        derived = {node for node in self.constant if node.op == "call_function"}
        return (taken - shared) | derived

    def _skipped(self, node: Node, plan: Plan) -> set[Node]:
        """The calls between a node and what its plan takes."""
        found: set[Node] = set()
        waiting = [node]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                is_call = source.op == "call_function" and source not in self.constant
                if is_call and source not in plan.takes and source not in found:
                    found.add(source)
                    waiting.append(source)
        return found


def _is_tensor(node: Node) -> bool:
    """Whether a call gives tensors, and not the length of an axis, which a part can be given."""
    return node.op == "call_function" and isinstance(node.meta.get("val"), (Tensor, tuple, list))


def _operator(node: Node) -> str:
    return Call(node, {}).operator if node.op == "call_function" else ""


def _problem(node: Node, why: str) -> Problem:
    call = Call(node, {})
    return Problem(call.operator, why, call.where)
