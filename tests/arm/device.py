"""What runs on the ARM machine: loads artefacts and calls them, asked and answering by pickles.

Started by `board.Board`. Needs the library and what it needs to run artefacts: no compiler, no
torch, and it says if one of them was loaded.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
from typing import Any

import tvmlayers as tl

PR_SVE_GET_VL = 51


def main() -> None:
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    loaded: dict[int, tl.Compiled] = {}
    while True:
        try:
            operation, *arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = OPERATIONS[operation](loaded, *arguments)
        except Exception as error:  # the test that asked raises it again
            answer = error if type(error).__module__.startswith("builtins") else _plain(error)
        pickle.dump(answer, answers)
        answers.flush()


def _plain(error: Exception) -> Exception:
    """An error of the library's own, without what its pickle would hang on."""
    return type(error)(str(error))


def load(loaded: dict[int, tl.Compiled], number: int, path: str, threads: int | None) -> None:
    loaded[number] = tl.load(path, threads=threads)


def call(loaded: dict[int, tl.Compiled], number: int, threads: int, inputs: Any, named: Any) -> Any:
    compiled = loaded[number]
    if compiled.threads != threads:
        compiled.threads = threads
    return compiled(*inputs, **named)


def drop(loaded: dict[int, tl.Compiled], number: int) -> None:
    loaded.pop(number, None)


def describe(_: dict[int, tl.Compiled]) -> dict[str, Any]:
    """What this machine is, and what was loaded that should not be."""
    from tvmlayers import targets

    with open("/proc/self/maps") as maps:
        compiler = "libtvm_compiler" in maps.read()
    return {
        "machine": targets.machine(),
        "native": targets.native().name,
        "flags": sorted(targets.read_cpu_flags()),
        "foreign": [name for name in ("tvm", "torch") if name in sys.modules]
        + ["libtvm_compiler"] * compiler,
        "vector_bits": _vector_bits(),
    }


def _vector_bits() -> int:
    """The length of SVE's vectors as Linux gives them to this process, or 0."""
    length = ctypes.CDLL(None).prctl(PR_SVE_GET_VL)
    return 8 * (length & 0xFFFF) if length > 0 else 0


OPERATIONS = {"load": load, "call": call, "drop": drop, "describe": describe}

if __name__ == "__main__":
    main()
