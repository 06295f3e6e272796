"""MetaSchedule's own rules on the plain computation: for comparison, never as a record.

On a GPU dense layers of float16 get its rules for tensor cores: wmma, sums in float32, sizes that
are no multiples of 16 padded. These rules know no bfloat16 and no tf32; what is not float16 gets
those for CUDA cores.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import tvm
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.utils import shash2hex

from tvmlayers import records, targets
from tvmlayers.codegen.cuda.fixed import fixed_target
from tvmlayers.errors import TuneError
from tvmlayers.spaces.choices import Decisions
from tvmlayers.targets import CudaTarget, Target
from tvmlayers.tune.cases import Case
from tvmlayers.tune.engine import BATCH, Context, RandomState, commit, cost_model, result_of
from tvmlayers.tune.journal import Conditions, Journal
from tvmlayers.tune.local import LocalMeasurer
from tvmlayers.tune.measurer import Measurer
from tvmlayers.tune.outcome import Outcome
from tvmlayers.tune.plain import plain_function
from tvmlayers.tune.progress import Progress, State
from tvmlayers.tune.result import WorkloadResult, curve_of, failures_of
from tvmlayers.tune.search import explore
from tvmlayers.tune.session import Plan, Stopped, untuned

SPACE = "stock"
POPULATION = 128
GENERATIONS = 3
MODULE = "module"
"""The name of a candidate's hash in a journal, in place of decisions."""


class StockSearch:
    """Proposes schedules of MetaSchedule's default rules; see `search.Search`."""

    def __init__(self, case: Case, target: Target | CudaTarget, seed: int, trials: int) -> None:
        self.modules: dict[str, Any] = {}
        self._candidates: list[Any] = []
        self._random = RandomState(seed)
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION,
            init_min_unmeasured=POPULATION // 2,
            genetic_num_iters=GENERATIONS,
        )
        rules, described = _rules(case, target)
        generator = ms.space_generator.PostOrderApply(
            sch_rules=rules, postprocs=rules, mutator_probs=rules
        )
        module = tvm.IRModule({"main": plain_function(case)})
        self._context = Context(module, described, generator, strategy, seed)
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._context.mod)
        self._model = cost_model()
        with self._random:
            spaces = self._design_spaces(case, rules)
            # Those that a resumed run knows are proposed again on the way.
            self._context.pre_tuning(2 * trials, BATCH, spaces, self._database, self._model)

    def _design_spaces(self, case: Case, rules: str) -> Any:
        try:
            return self._context.generate_design_space()
        except RuntimeError as error:
            raise TuneError(
                f"MetaSchedule's {rules} rules cannot schedule {case.workload} "
                f"({str(error).strip().splitlines()[-1]}); leave --space stock out for it"
            ) from error

    def propose(self) -> list[Decisions]:
        """The next candidates; none when the search finds no more."""
        with self._random:
            self._candidates = list(self._context.generate_measure_candidates() or [])
        made: list[Decisions] = []
        for candidate in self._candidates:
            digest = shash2hex(candidate.sch.mod)
            self.modules[digest] = candidate.sch.mod
            made.append({MODULE: digest})
        return made

    def learn(self, decisions: Sequence[Decisions], outcomes: Sequence[Outcome]) -> None:
        """Take in what came of the candidates proposed last."""
        told = {each[MODULE]: out for each, out in zip(decisions, outcomes, strict=True)}
        results = [
            result_of(told.get(shash2hex(each.sch.mod), Outcome(None, "left out")))
            for each in self._candidates
        ]
        for candidate, result in zip(self._candidates, results, strict=True):
            if result.run_secs:
                commit(self._database, self._workload, self._context, candidate, result)
        with self._random:
            self._model.update(self._context, self._candidates, results)
        self._context.notify_runner_results(self._candidates, results)


def _rules(case: Case, target: Target | CudaTarget) -> tuple[str, Any]:
    """The name of MetaSchedule's set of rules, and the target as they take it."""
    if isinstance(target, Target):
        # The rules that the target would choose differ in intrinsics for 8-bit integers alone.
        return "llvm", targets.to_tvm(target)
    workload = case.workload
    if (workload.kind, workload["dtype"]) != ("dense", "float16"):
        return "cuda", fixed_target(target)
    _register_intrinsics()
    return "cuda-tensorcore", fixed_target(target)


def _register_intrinsics() -> None:
    """Import what the rules for tensor cores refer to.

    TVM asks for the stack at each of its 250 functions there, and Python searches all modules for
    the owner of every frame that is in no file, those of the import itself. Told whose they are it
    takes 4 s, where it took 40.
    """
    for name in ("importlib._bootstrap", "importlib._bootstrap_external"):
        inspect.modulesbyfile.setdefault(f"<frozen {name}>", name)
    import_module("tvm.s_tir.tensor_intrin.cuda")


class TriesModules:
    """The methods of a measurer that know the module of each candidate of the search."""

    search: StockSearch | None = None

    def module_of(self, decisions: Decisions) -> Any:
        """The scheduled module that `decisions` name."""
        assert self.search is not None
        return self.search.modules[str(decisions[MODULE])]


class StockMeasurer(TriesModules, LocalMeasurer):
    """Tries modules where `LocalMeasurer` tries decisions."""

    def request(self, decisions: Decisions) -> dict[str, Any]:
        return {"op": "plain", "module": tvm.ir.save_json(self.module_of(decisions))}


class StockMeasures(Measurer, Protocol):
    """A measurer that tries modules of the search that it is given."""

    search: StockSearch | None


def tune_stock(
    case: Case, plan: Plan, measurer: StockMeasures, progress: Progress, place: str
) -> WorkloadResult:
    """The best time that the stock rules found, against our own untuned kernel."""
    workload, target = case.workload, plan.target
    conditions = Conditions(
        SPACE, records.installed_tvm(), plan.threads, case.data.describe(workload.kind)
    )
    journal = Journal(plan.work_dir, plan.target, workload, conditions)
    state = State(case, place, plan.trials)
    state.take(journal.known.values())
    resumed = len(journal.known)

    def tell(decisions: Decisions, outcome: Outcome) -> None:
        journal.add(decisions, outcome)
        state.add(outcome)
        progress.trial(state)

    def result() -> WorkloadResult:
        known = list(journal.known.items())
        key, best = min(known, key=lambda item: item[1].time)
        return WorkloadResult(
            case=case,
            space=SPACE,
            decisions=journal.decisions[key],
            microseconds=best.time,
            untuned_microseconds=state.untuned,
            trials=len(known),
            measured=len(known) - resumed,
            failures=failures_of([o.cause for _, o in known if o.cause is not None]),
            curve=curve_of([outcome for _, outcome in known]),
            journal=journal.path,
        )

    try:
        measurer.search = StockSearch(case, target, plan.seed, plan.trials)
        state.untuned = measurer.open(case, plan.seed, untuned(workload, target))
        if journal.reference is None:
            journal.reference = state.untuned
        else:
            state.untuned = journal.reference
            measurer.relate(state.untuned)
        state.limits = measurer.limits(case)
        progress.begin(state)
        known = dict(journal.known)
        explore(measurer.search, measurer, trials=plan.trials, known=known, tell=tell)
    except KeyboardInterrupt:
        raise Stopped(result() if journal.known else None) from None
    finally:
        journal.close()
    found = result()
    progress.end(state, found)
    return found
