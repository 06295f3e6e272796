"""Records for the tests, and programs that write them from other processes."""

from __future__ import annotations

from typing import Any

from tvmlayers.records import Record, installed_tvm
from tvmlayers.workload import Workload

TARGET = "x86-64-v3"


def dense(m: int = 128, k: int = 768, n: int = 3072, **changes: Any) -> Record:
    """A record of a Dense layer with gelu."""
    workload = Workload.make("dense", m=m, k=k, n=n, dtype="float32", activation="gelu")
    return of(workload, **changes)


def softmax(m: int = 32, **changes: Any) -> Record:
    """A record of a softmax by itself."""
    workload = Workload.make("softmax", m=m, n=1000, dtype="float32")
    return of(workload, **{"space": "rows", **changes})


def of(workload: Workload, **changes: Any) -> Record:
    """A record of a workload, as of the installed TVM."""
    given: dict[str, Any] = {
        "workload": workload,
        "target": TARGET,
        "space": "gemm",
        "decisions": {"tile_rows": 6, "split": "rows", "share": 0.5, "fused": True},
        "microseconds": 123.4,
        "untuned_microseconds": 140.1,
        "trials": 64,
        "threads": 2,
        "tvm": installed_tvm(),
        "date": "2026-11-22",
    }
    return Record(**{**given, **changes})


ADD_MANY = """
import sys
from made_records import dense
from tvmlayers.records import add

first, folder = int(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + 20):
    add([dense(m=number)], folder)
"""

ADD_FOREVER = """
import sys
from made_records import dense
from tvmlayers.records import add

folder, number = sys.argv[1], 0
while True:
    number += 1
    add([dense(m=1 + number % 50, microseconds=float(number))], folder)
    print(number, flush=True)
"""

KILLED_AT = """
import os, signal, sys
from made_records import dense
from tvmlayers.records import add

setattr(os, sys.argv[1], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
add([dense(m=2)], sys.argv[2])
"""
