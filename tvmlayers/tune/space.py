"""The design space of a workload, as MetaSchedule explores it.

MetaSchedule searches schedules; ours decide names and numbers, from which the kernels are built.
So the schedule searched is that of a stand-in function, and holds one sampled choice, written down
as an annotation, for each choice of the kernel.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, te
from tvm.ir.utils import derived_object
from tvm.tirx import PrimFunc

from tvmlayers.errors import MissingDependencyError
from tvmlayers.spaces import choices_of, space_of
from tvmlayers.spaces.choices import Decision, Decisions, choose
from tvmlayers.targets import CudaTarget, Target
from tvmlayers.workload import Workload

try:
    from tvm.s_tir import meta_schedule as ms
except ImportError as error:
    raise MissingDependencyError(
        f"tuning needs {error.name}: pip install 'tvmlayers[tune]'"
    ) from error

SAMPLE = "SampleCategorical"
ANNOTATION = "tvmlayers."


@dataclass(frozen=True)
class Space:
    """What may be decided: the candidates of each choice, in order."""

    name: str
    choices: tuple[tuple[str, tuple[Decision, ...]], ...]

    @staticmethod
    def of(workload: Workload, target: Target | CudaTarget) -> Space:
        """The space that `codegen` chooses from for this workload."""
        choices = choices_of(workload, target)
        listed = tuple((name, tuple(values)) for name, values in choices.items())
        return Space(space_of(workload.kind, target), listed)

    def around(self, decisions: Decisions, free: Sequence[str]) -> Space:
        """The part of the space that differs from `decisions` in the choices `free` alone."""
        kept = (
            (name, values if name in free else (decisions[name],)) for name, values in self.choices
        )
        return Space(self.name, tuple(kept))

    @property
    def size(self) -> int:
        """How many different decisions there are."""
        return math.prod(len(values) for _, values in self.choices)

    def all(self) -> Iterator[Decisions]:
        """Every decision that can be made."""
        names = [name for name, _ in self.choices]
        for values in product(*(values for _, values in self.choices)):
            yield dict(zip(names, values, strict=True))

    def schedule(self, sch: s_tir.Schedule, decisions: Decisions | None = None) -> None:
        """Sample every choice on `sch`, or take those of `decisions`."""
        root = sch.get_sblock("root")
        for name, values in self.choices:
            sch.annotate(root, ANNOTATION + name, choose(sch, name, values, decisions))

    def read(self, trace: s_tir.schedule.Trace) -> Decisions:
        """What a schedule decided."""
        return {
            name: values[place]
            for (name, values), place in zip(self.choices, places(trace), strict=True)
        }

    def features(self, trace: s_tir.schedule.Trace) -> list[float]:
        """Numbers that a cost model learns from: of a number its log, of a name one of each."""
        made: list[float] = []
        for (_, values), place in zip(self.choices, places(trace), strict=True):
            value = values[place]
            if isinstance(value, str):
                made += [float(value == each) for each in values]
            else:
                made.append(math.log2(1.0 + float(value)))
        return made


def places(trace: s_tir.schedule.Trace) -> list[int]:
    """The place of the candidate taken by each sample of a trace, in order."""
    return [int(trace.decisions[sample]) for sample in samples(trace)]


def samples(trace: s_tir.schedule.Trace) -> list[Any]:
    """The instructions of a trace that choose among candidates."""
    return [instruction for instruction in trace.insts if instruction.kind.name == SAMPLE]


def stand_in() -> PrimFunc:
    """A function for the schedules to stand on."""
    given = te.placeholder((1,), name="given")
    made = te.compute((1,), lambda i: given[i], name="made")
    return te.create_prim_func([given, made]).with_attr("global_symbol", "main")


@derived_object
class MutateChoice(ms.mutator.PyMutator):  # type: ignore[misc]
    """Puts another candidate in the place of one choice. MetaSchedule's own mutators take only the
    samples of tile sizes and thread bindings."""

    def _initialize_with_tune_context(self, context: Any) -> None:
        del context

    def apply(self, trace: Any, rand_state: int) -> Any:
        rng = random.Random(rand_state)
        open_ones = [sample for sample in samples(trace) if len(sample.attrs[0]) > 1]
        if not open_ones:
            return None
        sample = rng.choice(open_ones)
        place = rng.randrange(len(sample.attrs[0]) - 1)
        place += place >= int(trace.decisions[sample])
        return trace.with_decision(sample, place, True)

    def clone(self) -> Any:
        return MutateChoice()


@derived_object
class ChoiceFeatures(ms.feature_extractor.PyFeatureExtractor):  # type: ignore[misc]
    """The features of `Space.features`, one row a candidate."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def extract_from(self, context: Any, candidates: Sequence[Any]) -> list[Any]:
        del context
        rows = [self.space.features(candidate.sch.trace) for candidate in candidates]
        return [tvm.runtime.tensor(np.array([row], "float32")) for row in rows]
