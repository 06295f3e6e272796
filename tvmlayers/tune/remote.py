"""A device behind an RPC tracker, as a worker uses it: arrays and libraries go up, times come back.

The session is kept while its workload is open: a table is uploaded once, not for every trial.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import tvm
from tvm import rpc

from tvmlayers.tune import timing
from tvmlayers.tune.expected import Array
from tvmlayers.tune.kernel import ENTRY, Kernel
from tvmlayers.tune.tracker import Address, servers_of

# A device that hangs is given up by its server after this time.
SESSION_SECONDS = 600
# How long a device may take to be free again after its last session.
PATIENCE = 5.0
Method = TypeVar("Method", bound=Callable[..., Any])


class DeviceLost(Exception):
    """The device went away, or what ran there crashed."""


def _on_device(method: Method) -> Method:
    """The method, with every error of TVM's as DeviceLost."""

    @wraps(method)
    def guarded(*args: Any, **named: Any) -> Any:
        try:
            return method(*args, **named)
        except DeviceLost:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise DeviceLost(lines[-1].strip()) from error

    return guarded  # type: ignore[return-value]


class There:
    """A device that the tracker lends; see `fixture.Device`."""

    def __init__(self, tracker: str, key: str) -> None:
        """DeviceLost where none is free within PATIENCE."""
        address = Address.of(tracker)
        deadline = time.monotonic() + PATIENCE
        while not servers_of(address, key).free:
            if time.monotonic() > deadline:
                raise DeviceLost(f"no device of key {key!r} is free at {address}")
            time.sleep(0.2)
        self._connect(address, key)
        self._uploads = 0

    @_on_device
    def _connect(self, address: Address, key: str) -> None:
        tracker = rpc.connect_tracker(address.host, address.port)
        self._session: Any = tracker.request(key, session_timeout=SESSION_SECONDS, max_retry=1)
        self._cpu = self._session.cpu()

    @_on_device
    def put(self, array: Array) -> Any:
        return tvm.runtime.tensor(array, self._cpu)

    @_on_device
    def get(self, tensor: Any) -> Array:
        values: Array = tensor.numpy()
        return values

    @_on_device
    def set(self, tensor: Any, array: Array) -> None:
        tensor.copyfrom(array)

    @_on_device
    def load(self, kernel: Kernel) -> Callable[..., int]:
        # Another name each time: a library that is loaded must not be written over.
        name = f"candidate{self._uploads}.so"
        self._uploads += 1
        self._session.upload(bytearray(kernel.library()), name)
        module = self._session.load_module(name)
        entry = _Entry(module, self._cpu)
        self._session.remove(name)
        return entry

    def timed(self, function: Callable[..., int], turns: Sequence[tuple[Any, ...]]) -> timing.Timed:
        assert isinstance(function, _Entry)
        return _RemoteCall(function, turns)

    def close(self) -> None:
        """Give the device back."""
        self._session = self._cpu = None
        gc.collect()  # the connection ends with the last tensor and module of it


class _Entry:
    """An entry point of a module over there."""

    def __init__(self, module: Any, device: Any) -> None:
        self._module, self._device = module, device
        self._function = module[ENTRY]

    @_on_device
    def __call__(self, *arguments: Any) -> int:
        return int(self._function(*arguments))

    @_on_device
    def seconds(self, arguments: tuple[Any, ...], calls: int) -> float:
        """Of one call, timed on the device itself."""
        evaluate = self._module.time_evaluator(ENTRY, self._device, number=calls, repeat=1)
        return float(evaluate(*arguments).mean)


class _RemoteCall:
    """An entry timed in blocks of calls with one turn's arguments, another turn for each block."""

    def __init__(self, entry: _Entry, turns: Sequence[tuple[Any, ...]]) -> None:
        self.turns = 1
        self._entry, self._arguments, self._turn = entry, turns, 0

    def seconds(self, calls: int) -> float:
        self._turn = (self._turn + 1) % len(self._arguments)
        return self._entry.seconds(self._arguments[self._turn], calls)
