"""A model compiled for a GPU: called with tensors of the GPU or of the host.

Tensors on the GPU, torch's and those of any library with DLPack, are taken as they lie, on the
caller's current stream, and results are of their kind. Arrays of the host are copied over and
back. Nothing waits for the GPU but a copy back to the host and, where an index out of range has to
raise, the look at its flag, which `deferred` puts off to `check`; and calls on tensors of libraries
other than torch and CuPy once `held.MOST` of them are unread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tvmlayers.artifact import file as artifact
from tvmlayers.artifact.arena import address
from tvmlayers.errors import DeviceError, IndexOutOfRangeError
from tvmlayers.runtime import diagnose, ffi, tensors
from tvmlayers.runtime.bound import BoundCall
from tvmlayers.runtime.call import ModelCall
from tvmlayers.runtime.cuda.arrays import DeviceArray, View, as_kind_of, is_on_gpu, view_of
from tvmlayers.runtime.cuda.driver import Driver, default_driver
from tvmlayers.runtime.cuda.fastcall import Form, Forms
from tvmlayers.runtime.cuda.memory import DriverMemory
from tvmlayers.runtime.cuda.outputs import fill_on, given_outputs, refuse_gpu_outputs
from tvmlayers.runtime.cuda.plan import Plan
from tvmlayers.runtime.cuda.resident import Resident
from tvmlayers.runtime.cuda.streams import current_stream, is_cupy
from tvmlayers.runtime.cuda.torch_tensors import TorchMemory, torch_view
from tvmlayers.runtime.folding import folded, leading_shape
from tvmlayers.runtime.signature import Entry, read_entries


class CudaCompiled(ModelCall):
    """A model compiled for one kind of GPU, with its packed weights.

    Call it as the model: `compiled(ids)`, by position or by name, with tensors that are all on one
    GPU or all on the host. Calls from several threads at once are safe.

    deferred: False, and a call whose indices are checked (`oob="raise"`) waits for the GPU and
    raises; True, and it returns at once: `check()` waits and raises for all calls since the last.
    Set the attribute to change it.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        library: bytes,
        images: Mapping[str, bytes],
        arena: NDArray[np.uint8],
        driver: Driver | None = None,
    ) -> None:
        """images: the GPU's code by kind, "cubin" and "ptx"; driver: NVIDIA's where None."""
        self._module = ffi.load_library(library)
        super().__init__(manifest, read_entries(manifest, self._module.get_function))
        self._described = {
            id(entry): row for entry, row in zip(self._entries, manifest["entries"], strict=True)
        }
        self._library, self._images, self._arena = library, dict(images), arena
        self._driver = driver
        self._on_gpus: dict[int, Resident] = {}
        self._forms = Forms()
        self._lock = threading.RLock()
        self.deferred = False

    def __call__(self, *inputs: Any, out: Any = None, **named: Any) -> Any:
        """The outputs for the inputs, in `out` (a buffer, or one for each output) where given."""
        known = None if named else self._forms.find(inputs, out)
        if known is not None:
            return self._call_known(*known, inputs, out)
        given = self._by_name(inputs, named)
        on_gpu = [is_on_gpu(value, name) for name, value in given.items()]
        if not any(on_gpu):
            return self._call_from_host(given, out)
        if not all(on_gpu):
            where = ", ".join(
                f"{name!r} on the {'GPU' if there else 'host'}"
                for name, there in zip(given, on_gpu, strict=True)
            )
            raise DeviceError(f"inputs lie on different devices ({where}); put them on one")
        return self._call_on_gpu(given, out, () if named else inputs)

    def bind(self, *inputs: Any, out: Any = None, **named: Any) -> BoundCall:
        """A call with these buffers, to be made as often as wanted: `bound()`.

        Results go to `out`, or to what the first call gives, which is made here. Each goes on the
        stream that is current then.
        """
        result = self(*inputs, out=out, **named)

        def run() -> int:
            self(*inputs, out=result, **named)
            return 0

        outputs = list(result) if isinstance(result, (list, tuple)) else [result]
        return BoundCall(run, int, list(self._by_name(inputs, named).values()), outputs)

    def check(self) -> None:
        """Wait for the calls since the last check, and raise where an index was out of range."""
        checks = self.manifest["checks"]
        for resident in list(self._on_gpus.values()):
            with self._lock, self.driver.context(resident.ordinal):
                self.driver.synchronize_all()  # calls may have gone on any stream
                found = resident.take_flags(current_stream(resident.ordinal))
            if found is not None:
                which = {str(c["layer"]) for c, bad in zip(checks, found, strict=True) if bad}
                raise IndexOutOfRangeError(
                    "indices or offsets of an earlier call were out of range, in the layers "
                    f"{', '.join(sorted(which))}; call with deferred=False to see which"
                )

    @property
    def driver(self) -> Driver:
        """NVIDIA's driver; DeviceError where there is none."""
        if self._driver is None:
            self._driver = default_driver()
        return self._driver

    def _take(self, arena: NDArray[np.uint8]) -> None:
        """Put new weights in the place of the old ones, once no call uses those any more."""
        with self._lock:  # no call is launched meanwhile
            for resident in self._on_gpus.values():
                with self.driver.context(resident.ordinal):
                    resident.take_weights(arena)
            self._arena = arena

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.tvml` artefact that `tvmlayers.load` takes."""
        weights = self.packed_weights()
        artifact.write(path, self.manifest, self._library, weights, self._images)

    def __reduce__(self) -> tuple[Any, ...]:
        """By what its artefact holds; the copy finds its own way to a GPU."""
        parts = (self.manifest, self._library, self._images, self._arena)
        return CudaCompiled, parts, {"deferred": self.deferred}

    def __repr__(self) -> str:
        takes = ", ".join(f"{slot.name}: {slot.dtype}{slot.text()}" for slot in self.inputs)
        gives = ", ".join(f"{slot.dtype}{slot.text()}" for slot in self.outputs)
        return f"<CudaCompiled ({takes}) -> {gives} for {self.target}>"

    @property
    def threads(self) -> int:
        """Threads of the host that a call uses: it only launches."""
        return 1

    def _call_from_host(self, given: Mapping[str, Any], out: Any) -> Any:
        """Copy the inputs over, run on the first GPU and copy the results back."""
        if out is not None:
            refuse_gpu_outputs(out)
        made = self._prepare(given, out)
        stream = current_stream(0)
        memory = DriverMemory(self.driver, 0, stream)
        with self._lock, self.driver.context(0):
            inputs = [memory.empty(array.shape, array.dtype) for array in made.inputs]
            for there, array in zip(inputs, made.inputs, strict=True):
                self.driver.upload(there.address, address(array), array.nbytes, stream)
            outputs = [memory.empty(each.shape, each.dtype) for each in made.outputs]
            self._run(made.entry, made.sizes, inputs, outputs, memory, made.seen)
            for result, there in zip(made.outputs, outputs, strict=True):
                self.driver.download(address(result), there.address, result.nbytes, stream)
            self.driver.synchronize(stream)
        if out is not None:
            return out
        return _unwrap([made.kind(result) for result in made.results])

    def _call_known(self, form: Form, addresses: list[int], inputs: Sequence[Any], out: Any) -> Any:
        """Run on tensors of shapes and dtypes that a call has had before."""
        plan, ordinal = form.plan, form.ordinal
        stream = current_stream(ordinal)
        with self._lock, self.driver.context(ordinal):
            results = form.make(stream) if out is None else [out]
            if form.is_torch:
                made = [result.data_ptr() for result in results]
            else:
                for each in inputs:
                    each.ready_on(stream)
                fill_on(out, stream)
                made = [result.address for result in results]
            if plan.scratch is None:
                plan.launch([*addresses, *made], stream)
            else:
                memory = form.memory(self.driver, ordinal, stream)
                scratch = plan.resident.scratch(memory, plan.scratch)
                plan.launch([*addresses, *made], stream, scratch.address)
            if plan.is_checked and not self.deferred:
                found = plan.resident.take_flags(stream)
                if found is not None:
                    views = [_see(each, "", stream) for each in inputs]
                    self._raise_for(found, plan.entry, views, stream)
        return out if out is not None else _unwrap(results)

    def _call_on_gpu(self, given: Mapping[str, Any], out: Any, inputs: Sequence[Any]) -> Any:
        """Run on tensors where they lie. inputs: the same as they came, where by position."""
        ordinals = sorted({_ordinal_of(value) for value in given.values()})
        if len(ordinals) > 1:
            raise DeviceError(f"inputs lie on different GPUs ({ordinals}); put them on one")
        ordinal = ordinals[0]
        stream = current_stream(ordinal, given.values())
        torch_stream = current_stream(ordinal)
        others = stream != torch_stream and any(map(_is_torch, (*given.values(), *_listed(out))))
        views = [_see(value, name, stream) for name, value in given.items()]
        names = tuple(given)
        slots = next(entry.inputs for entry in self._entries if entry.names == names)
        kinds = [tensors.to_torch if _is_torch(v) else tensors.identity for v in given.values()]
        lead, seen = leading_shape(views, slots, self._leading), views
        if lead is not None:
            seen = [replace(v, shape=folded(v.shape, lead, self._leading)) for v in views]
        entry, sizes = diagnose.choose_entry(self._entries, names, seen, kinds)  # type: ignore[arg-type]
        is_torch = all(map(_is_torch, given.values()))
        memory: Any = (TorchMemory if is_torch else DriverMemory)(self.driver, ordinal, stream)
        shapes = self._result_shapes(entry, sizes, lead)
        with self._lock, self.driver.context(ordinal):
            if others:  # torch's tensors, on a stream that torch knows nothing of
                self.driver.order(torch_stream, stream)
            packed = [
                memory.packed(v, s.dtype, s.name) for v, s in zip(views, entry.inputs, strict=True)
            ]
            if out is None:
                made = [
                    memory.empty(shape, slot.dtype)
                    for shape, slot in zip(shapes, entry.outputs, strict=True)
                ]
            else:
                made = given_outputs(out, entry.outputs, shapes, packed, ordinal, stream)
            plan = self._run(entry, sizes, packed, made, memory, packed)
            if others:
                self.driver.order(stream, torch_stream)
            foreign = [v.owner for v in views if not _is_ordered(v.owner)]
            plan.resident.held.keep(foreign, stream)
            as_they_lie = all(map(lambda one, other: one is other, packed, views))
            if len(inputs) == len(views) and as_they_lie and lead is None:
                self._forms.learn(plan, inputs, ordinal)
        if out is not None:
            return out
        results = [memory.result(each) for each in made]
        return _unwrap(results if is_torch else as_kind_of(given.values(), results))

    def _run(
        self,
        entry: Entry,
        sizes: Mapping[str, int],
        inputs: Sequence[View],
        outputs: Sequence[View],
        memory: Any,
        arrays: Sequence[Any],
    ) -> Plan:
        """Launch all kernels of an entry; raise for indices out of range unless deferred."""
        plan = self._plan(entry, sizes, memory)
        self._ready(plan, [*inputs, *outputs], memory)()
        if plan.is_checked and not self.deferred:
            found = plan.resident.take_flags(memory.stream)
            if found is not None:
                self._raise_for(found, entry, arrays, memory.stream)
        return plan

    def _prepared(
        self,
        entry: Entry,
        sizes: Mapping[str, int],
        inputs: Sequence[View],
        outputs: Sequence[View],
        memory: Any,
    ) -> Callable[[], None]:
        """What launches all kernels of an entry on these tensors, as often as it is called."""
        return self._ready(self._plan(entry, sizes, memory), [*inputs, *outputs], memory)

    def _plan(self, entry: Entry, sizes: Mapping[str, int], memory: Any) -> Plan:
        row, kernels = self._described[id(entry)], self.manifest["cuda"]["kernels"]
        return Plan(entry, row, sizes, self._resident(memory.ordinal), kernels)

    def _ready(self, plan: Plan, views: Sequence[View], memory: Any) -> Callable[[], None]:
        scratch = None if plan.scratch is None else plan.resident.scratch(memory, plan.scratch)
        place = 0 if scratch is None else scratch.address
        addresses, stream = [each.address for each in views], memory.stream

        def launch(_held: object = (scratch, views)) -> None:  # what the addresses are of
            plan.launch(addresses, stream, place)

        return launch

    def _raise_for(
        self, found: NDArray[Any], entry: Entry, arrays: Sequence[Any], stream: int
    ) -> NoReturn:
        status = sum({1 << min(i, 62) for i in np.flatnonzero(found).tolist()})
        hosts = [
            each if isinstance(each, np.ndarray) else self._on_host(each, stream) for each in arrays
        ]
        diagnose.raise_for_status(status, self.manifest["checks"], entry, hosts)

    def _on_host(self, there: View, stream: int) -> NDArray[Any]:
        host = np.empty(there.shape, there.dtype)
        self.driver.download(address(host), there.address, there.nbytes, stream)
        self.driver.synchronize(stream)
        return host

    def _resident(self, ordinal: int, weights: DeviceArray | None = None) -> Resident:
        """What this model keeps on a GPU, put there at its first call; in the GPU's context.

        weights: used instead of the model's own, where they lie there already.
        """
        found = self._on_gpus.get(ordinal)
        if found is None:
            given = self._arena if weights is None else weights
            found = Resident(self.driver, ordinal, self.manifest, self._images, given)
            self._on_gpus[ordinal] = found
        return found


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _listed(out: Any) -> Sequence[Any]:
    return out if isinstance(out, (list, tuple)) else (out,)


def _is_ordered(owner: Any) -> bool:
    """Whether the memory of what was read is taken back in the order of the call's stream."""
    value = owner[0] if isinstance(owner, tuple) else owner
    return _is_torch(value) or isinstance(value, DeviceArray) or is_cupy(value)


def _ordinal_of(value: Any) -> int:
    """The number of the GPU that a tensor lies on."""
    return int(value.device.index if _is_torch(value) else value.__dlpack_device__()[1])


def _see(value: Any, name: str, stream: int) -> View:
    """A tensor on the GPU as compiled code on a stream takes it."""
    return torch_view(value, name) if _is_torch(value) else view_of(value, name, stream)


def _unwrap(results: list[Any]) -> Any:
    return results[0] if len(results) == 1 else results
