"""A compiled model: called with the caller's tensors, it gives results of the caller's kind.

Loads neither the compiler nor torch. Common calls, packed NumPy arrays or torch tensors, go
the short ways of `fastcall`; `Compiled._call` takes everything else.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact import file as artifact
from tvmlayers.artifact.arena import allocate_arena
from tvmlayers.artifact.weights import packed as pack_weights
from tvmlayers.dtypes import passed_as
from tvmlayers.errors import ConfigError, TvmLayersError
from tvmlayers.foreign import is_refusal
from tvmlayers.runtime import diagnose, ffi, tensors
from tvmlayers.runtime.bound import BoundCall, refuse_copies
from tvmlayers.runtime.call import ModelCall, Prepared
from tvmlayers.runtime.fastcall import (
    FastCall,
    FastCalls,
    Plan,
    batched_groups,
    foreign_call,
    make_plans,
    numpy_call,
    numpy_calls,
    of_rank,
    single_entries,
    torch_call,
    torch_calls,
)
from tvmlayers.runtime.signature import (
    Entry,
    Function,
    as_passed,
    check_functions,
    read_entries,
    with_tensors,
)
from tvmlayers.runtime.tensors import Array, Kind
from tvmlayers.runtime.threads import count as count_threads
from tvmlayers.runtime.threads import load_library

if TYPE_CHECKING:
    from tvmlayers.runtime.cuda import CudaCompiled


class Compiled(ModelCall):
    """A model compiled for one target, with its packed weights.

    Call it as the model: `compiled(ids)`, `compiled(indices, offsets, per_sample_weights=w)`.
    Inputs are positional or by name: NumPy arrays, torch CPU tensors, TVM tensors, anything
    with `__dlpack__` on the CPU, nested lists. They are not copied when they are packed and of
    a dtype that an entry point takes; smaller integers are widened. The result is of the first
    input's kind, a list where the model has several outputs. Calls from several threads at
    once are safe. The memory of a large result is used again once nothing refers to it.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        get_function: Callable[[str], Function],
        arena: NDArray[np.uint8],
        threads: int | None = None,
        library: Callable[[], bytes] | None = None,
    ) -> None:
        """library: gives the bytes of the shared library when the model is saved."""
        entries = map(with_tensors, read_entries(manifest, get_function))
        super().__init__(manifest, tuple(entries))
        self._get_function, self._library = get_function, library
        self._single = single_entries(self._entries)
        # Inputs in positional order: those that a call without names can mean.
        self._groups = {
            names: entries
            for names, entries in batched_groups(self._entries).items()
            if names == self._names[: len(names)]
        }
        self._plans = make_plans(self._entries, self._leading)
        self._forms: dict[tuple[Any, ...], tuple[Plan, list[int]]] = {}
        self._fast: dict[type, FastCall]
        self._several: dict[tuple[type, int], FastCalls]
        self._lenders: dict[type, tuple[Callable[[Any], Array], Kind]]
        # Held where what a call uses is replaced, or remembered for the next one.
        self._switching = threading.RLock()
        self._bound: WeakSet[BoundCall] = WeakSet()
        self._switch(arena, threads)

    def __call__(self, value: Any = None, /, *more: Any, out: Any = None, **named: Any) -> Any:
        """The outputs for the inputs, in `out` (a buffer, or one for each output) where given."""
        if out is None and not named:
            if not more:
                fast = self._fast.get(type(value))
                if fast is not None:
                    return fast(self, value)
            else:
                several = self._several.get((type(value), len(more)))
                if several is not None:
                    return several(self, (value, *more))
        inputs = () if value is None and not more else (value, *more)
        return self._call(inputs, named, out)

    def bind(self, *inputs: Any, out: Any = None, **named: Any) -> BoundCall:
        """A call with these buffers, to be made as often as wanted: `bound()`.

        What remains of a call is the compiled code: inputs are read where they lie, results go to
        `out`, or to buffers that are made here. For inputs that a call would have to copy it raises
        DTypeError or ShapeError. The model runs once, so that whatever is wrong is said here.
        Bound calls keep to the number of threads that the model has now.
        """
        given = self._by_name(inputs, named)
        made = self._prepare(given, out)
        for value, seen, slot in zip(given.values(), made.imported, made.entry.inputs, strict=True):
            refuse_copies(value, seen, slot)
        if out is None:
            kind = made.imported[0][1] or tensors.identity
            outputs = [tensors.in_same_memory(result, kind) for result in made.results]
        else:
            outputs = list(out) if isinstance(out, (list, tuple)) else [out]
        entry = made.entry
        dtypes = [slot.dtype.name for slot in (*entry.inputs, *entry.outputs)]
        buffers = [
            ffi.from_array(as_passed(array) if passed_as(dtype) != dtype else array)
            for array, dtype in zip(made.arguments, dtypes, strict=True)
        ]
        arena = self._arena_tensor
        bound = BoundCall(
            entry.prepared(*buffers, arena, self._threads),
            partial(self._explain, entry, made.seen),
            list(given.values()),
            outputs,
        )
        bound()
        with self._switching:
            bound.follow(arena, self._arena_tensor)
            self._bound.add(bound)
        return bound

    def with_weights(self, weights: Mapping[str, object] | Sequence[object]) -> Compiled:
        """Another model with the same machine code and weights of its own, as of `set_weights`."""
        return self.over(pack_weights(self.manifest, weights))

    def over(self, arena: NDArray[np.uint8]) -> Compiled:
        """Another model with the same machine code, over weights that are packed already.

        arena: as long as this one's and at a multiple of 64 bytes; it stays where it is.
        """
        return Compiled(
            self.manifest, self._get_function, arena, self._wanted_threads, self._library
        )

    def _call(self, inputs: Sequence[Any], named: Mapping[str, Any], out: Any) -> Any:
        """The general way: every kind of input, every check, every error."""
        form = self._forms.get((len(inputs), *named))
        if form is not None:
            planned = self._call_planned(form, [*inputs, *named.values()], out)
            if planned is not None:
                return planned
        given = self._by_name(inputs, named)
        made = self._prepare(given, out)
        self._run(made)
        self._learn(next(iter(given.values())))
        if len(given) == len(inputs) + len(named):
            self._learn_form(tuple(given), inputs, named)
        if out is not None:
            return out
        return _unwrap([made.kind(result) for result in made.results])

    def _call_refused(self, inputs: tuple[Any, ...]) -> Any:
        """The general way for what compiled code has refused."""
        kind = type(inputs[0])
        fast = self._fast  # one set of ways, whatever another thread switches to
        if self._leading and len(inputs) == 1 and kind in fast:
            rank = len(self._single[0].inputs[0].shape)
            if inputs[0].ndim != rank:
                fast[kind] = of_rank(fast[kind], rank)
        return self._call(inputs, {}, None)

    def _call_planned(self, form: tuple[Plan, list[int]], values: list[Any], out: Any) -> Any:
        """The outputs where the inputs are packed tensors of one kind, else None."""
        kind_of_all = type(values[0])
        lender = self._lenders.get(kind_of_all)
        if lender is None or (out is not None and type(out) is not kind_of_all):
            return None
        for value in values:
            if type(value) is not kind_of_all:
                return None
        (to_array, kind), (plan, order) = lender, form
        try:
            arrays = [to_array(values[position]) for position in order]
            buffer = None if out is None else to_array(out)
        except Exception as error:
            if not is_refusal(error):
                raise
            return None
        results = plan(arrays, buffer, self._arena_tensor, self._threads)
        if results is None or out is not None:
            return None if results is None else out
        return _unwrap([kind(result) for result in results])

    def _run(self, made: Prepared) -> None:
        try:
            status = made.entry.function(*made.arguments, self._arena_tensor, self._threads)
        except Exception as error:
            if not is_refusal(error):
                raise
            raise TvmLayersError(
                f"the compiled code refused inputs that fit its signature: {error}"
            ) from error
        if status:
            self._explain(made.entry, made.seen, status)

    def _explain(self, entry: Entry, arrays: Sequence[Array], status: int) -> NoReturn:
        diagnose.raise_for_status(status, self.manifest["checks"], entry, arrays)

    def _fail(self, status: int, array: Array) -> NoReturn:
        entry = next(each for each in self._single if each.inputs[0].dtype == array.dtype)
        self._explain(entry, [array], status)

    def _learn(self, value: Any) -> None:
        """Remember how tensors of the type of `value` are lent: the next call is a fast one."""
        lender = tensors.lender_of(value)
        if lender is None or type(value) in self._lenders:
            return
        with self._switching:
            self._learn_kind(value, lender)

    def _learn_kind(self, value: Any, lender: tuple[Callable[[Any], Array], Kind]) -> None:
        self._lenders[type(value)] = lender
        torch = sys.modules.get("torch")
        if torch is not None and type(value) is torch.Tensor:
            for names, entries in self._groups.items():
                self._several[torch.Tensor, len(names) - 1] = torch_calls(
                    entries, self._arena_tensor, self._threads, torch
                )
        if not self._single:
            return
        if torch is not None and type(value) is torch.Tensor:
            fast = torch_call(self._single, self._arena_tensor, self._threads, torch)
        else:
            fast = foreign_call(self._fast[np.ndarray], *lender)
        self._fast[type(value)] = fast

    def _learn_form(
        self, names: tuple[str, ...], inputs: Sequence[Any], named: Mapping[str, Any]
    ) -> None:
        """Remember the signature that such a call means, unless a shorter way takes it."""
        given = [*self._names[: len(inputs)], *named]
        if names in self._plans:
            order = [given.index(name) for name in names]
            self._forms[(len(inputs), *named)] = (self._plans[names], order)

    @property
    def threads(self) -> int:
        """Threads that one call may use. Setting None takes the default, the physical cores."""
        return self._threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        with self._switching:
            self._switch(self._arena, threads)

    def _take(self, arena: NDArray[np.uint8]) -> None:
        with self._switching:
            old = self._arena_tensor
            self._switch(arena, self._wanted_threads)
            for bound in self._bound:
                bound.follow(old, self._arena_tensor)

    def _switch(self, arena: NDArray[np.uint8], threads: int | None) -> None:
        """Call with these weights and threads from now on.

        The short ways hold the arena that they use. They are replaced all together, and a call
        reads its own once, so that it uses one arena from begin to end.
        """
        tensor, count = ffi.from_array(arena), count_threads(threads)
        fast: dict[type, FastCall] = {}
        if self._single:
            fast[np.ndarray] = numpy_call(self._single, tensor, count)
        self._arena, self._arena_tensor = arena, tensor
        self._threads, self._wanted_threads = count, threads
        self._lenders = {np.ndarray: (tensors.identity, tensors.identity)}
        self._fast = fast
        self._several = {
            (np.ndarray, len(names) - 1): numpy_calls(entries, tensor, count)
            for names, entries in self._groups.items()
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.tvml` artefact that `tvmlayers.load` takes."""
        artifact.write(path, self.manifest, self._machine_code(), self.packed_weights())

    def __reduce__(self) -> tuple[Any, ...]:
        """By what its artefact holds; it is checked and loaded as that is."""
        return _restored, (self.manifest, self._machine_code(), self._arena, self._wanted_threads)

    def _machine_code(self) -> bytes:
        if self._library is None:
            raise ConfigError("this model was made without its library and cannot be saved")
        return self._library()

    def __repr__(self) -> str:
        takes = ", ".join(f"{slot.name}: {slot.dtype}{slot.text()}" for slot in self.inputs)
        gives = ", ".join(f"{slot.dtype}{slot.text()}" for slot in self.outputs)
        return f"<Compiled ({takes}) -> {gives} for {self.target}, {self.threads} threads>"


def load(path: str | os.PathLike[str], threads: int | None = None) -> Compiled | CudaCompiled:
    """The compiled model saved at `path`, ready to be called.

    threads: as for compile; None takes the physical cores. Raises ArtifactError for a damaged
    or foreign file, and TargetError where this machine lacks CPU features that the code uses. A
    model for a GPU loads without one; its first call looks for it.
    """
    manifest, library, arena = artifact.read(path)
    if "cuda" in manifest:
        from tvmlayers.runtime.cuda import CudaCompiled

        return CudaCompiled(manifest, library, artifact.read_images(path, manifest), arena)
    return _loaded(manifest, library, arena, threads)


def _loaded(
    manifest: Mapping[str, Any], library: bytes, arena: NDArray[np.uint8], threads: int | None
) -> Compiled:
    module = load_library(library)
    compiled = Compiled(manifest, module.get_function, arena, threads, lambda: library)
    check_functions(compiled._entries, compiled._arena_tensor)
    return compiled


def _restored(
    manifest: Mapping[str, Any], library: bytes, packed: NDArray[np.uint8], threads: int | None
) -> Compiled:
    """A copy of a compiled model, or one that was pickled; TargetError as of `load`."""
    artifact.check_machine(manifest, "this model")
    arena = allocate_arena(packed.nbytes)  # with the alignment that compiled code relies on
    arena[...] = packed
    return _loaded(manifest, library, arena, threads)


def _unwrap(results: list[Any]) -> Any:
    return results[0] if len(results) == 1 else results
