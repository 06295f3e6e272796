"""Which decisions are tried next: MetaSchedule's evolutionary search with its cost model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import tvm
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from tvmlayers import targets
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget, Target
from tvmlayers.tune.engine import BATCH, Context, RandomState, commit, cost_model, result_of
from tvmlayers.tune.outcome import Key, Measure, Outcome, key_of
from tvmlayers.tune.space import ChoiceFeatures, MutateChoice, Space, stand_in

POPULATION = 64
GENERATIONS = 3
GREEDY = 0.1

Tell = Callable[[Decisions, Outcome], None]


class Search:
    """Proposes batches of candidates and learns from what they took. Never the same one twice."""

    def __init__(
        self, space: Space, target: Target | CudaTarget, first: Decisions, seed: int
    ) -> None:
        """first: the decisions that are proposed before all others."""
        self.space = space
        self._first: Decisions | None = first
        self._seed = seed
        self._proposed: set[Key] = set()
        self._rest: list[Decisions] | None = None
        self._candidates: list[Any] = []
        self._context = _context(space, target, seed)
        self._model = cost_model(ChoiceFeatures(space))
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._context.mod)
        self._random = RandomState(seed)
        with self._random:
            self._context.pre_tuning(
                space.size,
                BATCH,
                self._context.generate_design_space(),
                self._database,
                self._model,
            )

    def propose(self) -> list[Decisions]:
        """The next candidates; none when the whole space was proposed."""
        if self._first is not None:
            first, self._first = self._first, None
            self._candidates = [self._candidate_of(first)]
            return self._fresh([first])
        if self._rest is None:
            with self._random:
                self._candidates = list(self._context.generate_measure_candidates() or [])
            found = self._fresh([self.space.read(c.sch.trace) for c in self._candidates])
            if found:
                return found
            if self._candidates:
                self._skip()
                return self.propose()
            self._rest = self._unseen()
        batch, self._rest = self._rest[:BATCH], self._rest[BATCH:]
        return self._fresh(batch)

    def learn(self, decisions: Sequence[Decisions], outcomes: Sequence[Outcome]) -> None:
        """Take in what came of the candidates proposed last."""
        if self._rest is not None:
            return
        told = {key_of(each): outcome for each, outcome in zip(decisions, outcomes, strict=True)}
        known = [(c, told.get(key_of(self.space.read(c.sch.trace)))) for c in self._candidates]
        taken = [(candidate, outcome) for candidate, outcome in known if outcome is not None]
        results = [result_of(outcome) for _, outcome in taken]
        for (candidate, outcome), result in zip(taken, results, strict=True):
            if outcome.microseconds is not None:
                commit(self._database, self._workload, self._context, candidate, result)
        with self._random:
            self._model.update(self._context, [candidate for candidate, _ in taken], results)
        if len(self._proposed) > 1:  # the first one did not come from the strategy
            self._skip()

    def _skip(self) -> None:
        results = [ms.runner.RunnerResult(None, "known") for _ in self._candidates]
        self._context.notify_runner_results(self._candidates, results)

    def _fresh(self, batch: Sequence[Decisions]) -> list[Decisions]:
        fresh = [each for each in batch if key_of(each) not in self._proposed]
        self._proposed.update(map(key_of, fresh))
        return fresh

    def _unseen(self) -> list[Decisions]:
        left = [each for each in self.space.all() if key_of(each) not in self._proposed]
        random.Random(self._seed).shuffle(left)
        return left

    def _candidate_of(self, decisions: Decisions) -> Any:
        sch = s_tir.Schedule(self._context.mod)
        self.space.schedule(sch, decisions)
        info = ms.arg_info.ArgInfo.from_entry_func(self._context.mod, False)
        return ms.MeasureCandidate(sch, info)


class Proposes(Protocol):
    """A search, as `explore` drives it."""

    def propose(self) -> list[Decisions]:
        """The next candidates; none at the end."""

    def learn(self, decisions: Sequence[Decisions], outcomes: Sequence[Outcome]) -> None:
        """Take in what came of the candidates proposed last."""


def explore(
    search: Proposes, measure: Measure, *, trials: int, known: dict[Key, Outcome], tell: Tell
) -> None:
    """Fill `known` up to `trials` outcomes, or to the whole space. What is known costs nothing.

    tell: called with each new outcome the moment it is there.
    """
    while len(known) < trials:
        batch = search.propose()
        if not batch:
            return
        new = [each for each in batch if key_of(each) not in known][: trials - len(known)]
        if new:
            for place, outcome in measure(new):
                known[key_of(new[place])] = outcome
                tell(new[place], outcome)
        done = [each for each in batch if key_of(each) in known]
        search.learn(done, [known[key_of(each)] for each in done])


def _context(space: Space, target: Target | CudaTarget, seed: int) -> Any:
    generator = ms.space_generator.ScheduleFn(
        space.schedule, sch_rules=[], postprocs=[], mutator_probs={MutateChoice(): 1.0}
    )
    population = max(BATCH, min(POPULATION, space.size))
    strategy = ms.search_strategy.EvolutionarySearch(
        population_size=population,
        init_min_unmeasured=min(population // 2, space.size),
        genetic_num_iters=GENERATIONS,
        eps_greedy=GREEDY,
    )
    module = tvm.IRModule({"main": stand_in()})
    # The stand-in is nobody's kernel: for a GPU it can just as well be a CPU's.
    cpu = target if isinstance(target, Target) else targets.native()
    return Context(module, targets.to_tvm(cpu), generator, strategy, seed)
