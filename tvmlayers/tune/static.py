"""The static measure: what the inner loop of a kernel takes on an ARM core, by llvm-mca's model.

It knows the core's ports and latencies, but neither caches nor memory: it ranks register tiles and
unrolling, and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvmlayers.artifact.panels import panel_layout
from tvmlayers.codegen.compiler import assembly
from tvmlayers.codegen.cpu.gemm import tile_core
from tvmlayers.codegen.cpu.gemm_tile import GemmSpec
from tvmlayers.codegen.modules import Modules
from tvmlayers.errors import TuneError
from tvmlayers.expr.activations import linear
from tvmlayers.expr.stored import KernelAs
from tvmlayers.quantization.kinds import Kind
from tvmlayers.schedule import Selector, vector_tile
from tvmlayers.spaces import gemm
from tvmlayers.spaces.choices import Decisions
from tvmlayers.spaces.gemm import Tile
from tvmlayers.targets import Target
from tvmlayers.tune import mca
from tvmlayers.tune.cases import Case
from tvmlayers.tune.kernel import one_layer
from tvmlayers.tune.loops import Loop, inner_loops
from tvmlayers.tune.outcome import Outcome
from tvmlayers.workload import Workload

# The choices between which the model sees a difference. Those that are about what it does not know
# (streams and prefetch for memory, blocks for the caches) stay with the analytic choice.
FREE = ("tile", "k_unroll")
# Of k, from which on LLVM leaves the loop over a tile of SVE's vectors as it is.
_LOOPED_STEPS = 256
# What turns cycles into microseconds: the clock of a common part with that core.
GIGAHERTZ = {"cortex-a72": 1.5, "neoverse-n1": 2.5, "neoverse-v1": 2.6}
USUAL_GIGAHERTZ = 1.5


@dataclass(frozen=True)
class LoopCost:
    """A kernel's inner loop beside what the ports allow. `work` is done by each iteration:
    multiply-adds of NEON's vectors, or rows; cycles and limit are for one piece of work."""

    loop: Loop
    work: float
    cycles: float
    limit: float
    start: float

    @property
    def of_limit(self) -> float:
        """The fraction of the limit that is reached."""
        return self.limit / self.cycles


def check_target(target: Target) -> None:
    """TuneError where there is no model of the target; MissingDependencyError without llvm-mca."""
    if target.architecture != "aarch64":
        raise TuneError(
            f"the static runner models ARM cores; {target.name} is measured on such a machine"
        )
    mca.find()


def tile_cost(workload: Workload, target: Target, decisions: Decisions) -> LoopCost:
    """What the register tile of a dense layer takes for a vector's multiply-add, or for one of its
    products of bytes."""
    tile = tuple(decisions[name] for name in _TILE)
    k, n, dtype = (workload[name] for name in ("k", "n", "dtype"))
    # All weights of several full panels have the same tile.
    columns = min(n, 2 * gemm.panel_width(k, n, dtype, target))
    return _tile_cost(k, columns, dtype, workload.stored, target, tile)


_TILE = ("tile", "streams", "k_unroll", "prefetch_steps", "next_lines", "k_block")


@functools.lru_cache(maxsize=4096)
def _tile_cost(
    k: int,
    n: int,
    dtype: str,
    stored: str,
    target: Target,
    tile: tuple[int | float | str | bool, ...],
) -> LoopCost:
    lanes, width = target.lanes(dtype), gemm.panel_width(k, n, dtype, target)
    if Tile.of({"tile": tile[0]}).unit == gemm.SVE:
        k = max(k, _LOOPED_STEPS)
    kept = KernelAs(stored, k, gemm.depth_of(n, stored, target))
    spec = GemmSpec(
        panel_layout(k, n, width=width, lanes=lanes, dtype=kept.dtype, codes=kept.depth),
        dtype,
        kept,
        lanes,
        vector_tile(k, n, dtype, target),
        gemm.tail_tiles(k, n, dtype, target) if n < width else (),
        (),
        linear,
        cheap=True,
        use_bias=True,
        byte_products=gemm.byte_products(target),
    )
    name, function = tile_core(spec, dict(zip(_TILE, tile, strict=True)))
    with Modules(target) as modules:
        code = modules.finish({name: function.with_attr("global_symbol", "tile")}).assembly()
    loops = inner_loops(code)
    if Tile.of({"tile": tile[0]}).unit == gemm.DIGITS:
        loop = max(loops, key=lambda each: each.byte_products, default=None)
        if loop is None or not loop.byte_products:
            raise TuneError(f"no loop of byte products was found in {tile[0]} for k of {k}")
        limit = mca.byte_product_cycles(spec.byte_products, target)
        return _cost(loop, loop.byte_products, limit, target)
    loop = max(loops, key=lambda each: each.multiply_adds, default=None)
    if loop is None or not loop.multiply_adds:
        raise TuneError(f"no loop of multiply-adds was found in the tile {tile[0]} for k of {k}")
    return _cost(loop, loop.multiply_add_words, mca.fma_cycles(dtype, target), target)


def row_cost(workload: Workload, target: Target) -> LoopCost:
    """What a lookup or a bag takes for one row of its table, with the analytic decisions."""
    model, _ = one_layer(workload.at(max(workload.batch, 1)), seed=0)
    code = assembly(model, Selector(target, use_records=False))
    vectors = workload["width"] * target.vector_bytes // (16 * target.lanes(workload["dtype"]))
    is_bag = workload.kind == "bag"

    def moved(loop: Loop) -> int:
        return min(loop.additions, loop.loaded) if is_bag else min(loop.loaded, loop.stored)

    # Sums of blocks of a bag's entries are added up on the stack, by another loop.
    loop = max(inner_loops(code), key=lambda each: (moved(each), -each.spills))
    if not moved(loop):
        raise TuneError(f"no loop over rows was found in the kernel of {workload}")
    limit = (mca.sum_cycles if is_bag else mca.copy_cycles)(vectors, target)
    return _cost(loop, moved(loop) / vectors, limit, target)


def _cost(loop: Loop, work: float, limit: float, target: Target) -> LoopCost:
    taken = mca.cycles(loop.text, target)
    return LoopCost(loop, work, taken.each / work, limit, taken.start)


def dense_microseconds(workload: Workload, target: Target, decisions: Decisions) -> float:
    """One call of a dense layer on one thread, by the model: its tiles, as if all were in cache."""
    cost, tile = tile_cost(workload, target, decisions), Tile.of(decisions)
    m, k, n, dtype = (workload[name] for name in ("m", "k", "n", "dtype"))
    vectors = -(-n // target.lanes(dtype))
    strips, tiles = -(-vectors // tile.vectors), -(-m // tile.rows)
    work = k * tile.rows * tile.vectors  # multiply-adds of a tile
    if tile.unit == gemm.DIGITS:  # of four steps each
        work = -(-k // 4) * tile.rows * tile.vectors * Kind.of(workload.stored).digits
    cycles = strips * tiles * (cost.start + cost.cycles * work)
    return float(cycles / GIGAHERTZ.get(target.name, USUAL_GIGAHERTZ) / 1e3)


class StaticMeasurer:
    """Ranks candidates by the model; see `measurer.Measurer`."""

    def __init__(self, target: Target) -> None:
        check_target(target)
        self._target = target
        self._workload: Workload | None = None

    def open(self, case: Case, seed: int, reference: Decisions) -> float:
        del seed
        if case.workload.kind != "dense" or case.workload["n"] == 1:
            raise TuneError(
                f"the static runner ranks the register tiles of dense layers, got {case.workload}; "
                "measure it on a device with --tracker and --key"
            )
        self._workload = case.workload
        return self._microseconds(reference)

    def relate(self, microseconds: float) -> None:
        """The model gives the same every time."""

    def __call__(self, batch: Sequence[Decisions]) -> Iterator[tuple[int, Outcome]]:
        for place, decisions in enumerate(batch):
            try:
                yield place, Outcome(self._microseconds(decisions))
            except TuneError as error:
                yield place, Outcome(None, f"no model: {error}")

    def compare(self, finalists: Sequence[Decisions]) -> list[float]:
        return [self._microseconds(each) for each in finalists]

    def limits(self, case: Case) -> dict[str, float]:
        """Multiply-adds in registers; the model has no memory, so nothing limits bytes."""
        dtype = case.workload["dtype"]
        clock = 1e9 * GIGAHERTZ.get(self._target.name, USUAL_GIGAHERTZ)
        fma = mca.fma_cycles(dtype, self._target)
        return {"flops": 2 * self._target.lanes(dtype) * clock / fma, "bytes": float("inf")}

    def close(self) -> None:
        """Nothing is held."""

    def _microseconds(self, decisions: Decisions) -> float:
        assert self._workload is not None, "a workload is opened before it is tried"
        is_far = self._workload.weight_bytes > self._target.l2 // 2
        if is_far and Tile.of(decisions).unit == gemm.SVE:
            raise TuneError("it asks for nothing ahead of its use, and W comes from memory")
        return dense_microseconds(self._workload, self._target, decisions)
