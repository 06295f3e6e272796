"""A library of small hand-written entry points, for tests of what calls them.

`embedding` (5 rows, sequences of 10), `scale` (a value model), `bag` (1-D indices with offsets)
and `spread` (counts its parallel tasks). They keep the conventions of compiled models:
`fn(*inputs, *outputs, arena, threads) -> status`, every buffer aligned to its elements only.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tvmlayers as tl
from tvmlayers.artifact import file as artifact
from tvmlayers.artifact.arena import allocate_arena, view
from tvmlayers.runtime import ffi
from tvmlayers.runtime.compiled import Compiled

ROWS, WIDTH, LENGTH, ARENA_BYTES = 5, 4, 10, 128
IDS = np.arange(30, dtype=np.int64).reshape(3, LENGTH) % ROWS
# Python, where warnings are errors but for what libraries of later releases say of each other.
STRICT = [sys.executable, "-W", "error"]
STRICT += [f"-Wdefault::{name}" for name in ("DeprecationWarning", "PendingDeprecationWarning")]
STRICT += ["-Wdefault::FutureWarning"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]
TABLE = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH) + 1

HEAD = """
@I.ir_module
class Library:
"""
EMBEDDING = """
    @T.prim_func(private=True, s_tir=True)
    def embed_{dtype}(
        x: T.handle("{dtype}"), o: T.handle("float32"), w: T.handle("float32"),
        s: T.handle("int32"), n: T.int64
    ):
        X = T.decl_buffer((n, 10), "{dtype}", data=x)
        O = T.decl_buffer((n, 10, 4), "float32", data=o)
        W = T.decl_buffer((5, 4), "float32", data=w)
        S = T.decl_buffer((1,), "int32", data=s)
        S[0] = 0
        for i, j in T.grid(n, 10):
            if X[i, j] < T.{dtype}(0) or X[i, j] >= T.{dtype}(5):
                S[0] = 1
            else:
                for k in range(4):
                    O[i, j, k] = W[X[i, j], k]

    @T.prim_func(s_tir=True)
    def embedding_{dtype}(x: T.handle, o: T.handle, w: T.handle, threads: T.int32) -> T.int32:
        T.func_attr({{"global_symbol": "embedding_{dtype}"}})
        n = T.int64()
        X = T.match_buffer(x, (n, 10), "{dtype}", align={align})
        O = T.match_buffer(o, (n, 10, 4), "float32", align=4)
        W = T.match_buffer(w, (128,), "uint8", align=64)
        S = T.alloc_buffer((1,), "int32")
        Library.embed_{dtype}(X.data, O.data, W.data, S.data, n)
        return S[0]

    @T.prim_func(private=True, s_tir=True)
    def sum_{dtype}(
        x: T.handle("{dtype}"), f: T.handle("{dtype}"), o: T.handle("float32"),
        w: T.handle("float32"), s: T.handle("int32"), n: T.int64, m: T.int64
    ):
        X = T.decl_buffer((n,), "{dtype}", data=x)
        F = T.decl_buffer((m,), "{dtype}", data=f)
        O = T.decl_buffer((m, 4), "float32", data=o)
        W = T.decl_buffer((5, 4), "float32", data=w)
        S = T.decl_buffer((1,), "int32", data=s)
        S[0] = 0
        if m > 0:
            if F[0] != T.{dtype}(0):
                S[0] = 2
        for i in range(m):
            if T.Cast("int64", F[i]) > n:
                S[0] = 2
            if i > 0:
                if F[i] < F[i - 1]:
                    S[0] = 2
        if S[0] == 0:
            for i, k in T.grid(m, 4):
                O[i, k] = T.float32(0)
            for j in range(n):
                if X[j] < T.{dtype}(0) or X[j] >= T.{dtype}(5):
                    S[0] = 1
            if S[0] == 0:
                for i, j in T.grid(m, n):
                    if T.Cast("int64", F[i]) <= j:
                        if i == m - 1:
                            for k in range(4):
                                O[i, k] = O[i, k] + W[X[j], k]
                        else:
                            if j < T.Cast("int64", F[i + 1]):
                                for k in range(4):
                                    O[i, k] = O[i, k] + W[X[j], k]

    @T.prim_func(s_tir=True)
    def bag_{dtype}(
        x: T.handle, f: T.handle, o: T.handle, w: T.handle, threads: T.int32
    ) -> T.int32:
        T.func_attr({{"global_symbol": "bag_{dtype}"}})
        n = T.int64()
        m = T.int64()
        X = T.match_buffer(x, (n,), "{dtype}", align={align})
        F = T.match_buffer(f, (m,), "{dtype}", align={align})
        O = T.match_buffer(o, (m, 4), "float32", align=4)
        W = T.match_buffer(w, (128,), "uint8", align=64)
        S = T.alloc_buffer((1,), "int32")
        Library.sum_{dtype}(X.data, F.data, O.data, W.data, S.data, n, m)
        return S[0]
"""
VALUES = """
    @T.prim_func(s_tir=True)
    def scale(x: T.handle, o: T.handle, p: T.handle, w: T.handle, threads: T.int32) -> T.int32:
        T.func_attr({"global_symbol": "scale"})
        n = T.int64()
        X = T.match_buffer(x, (n, 3), "float32", align=4)
        O = T.match_buffer(o, (n, 3), "float32", align=4)
        P = T.match_buffer(p, (n,), "float32", align=4)
        W = T.match_buffer(w, (128,), "uint8", align=64)
        for i in range(n):
            P[i] = X[i, 0]
            for j in range(3):
                O[i, j] = X[i, j] * T.float32(2)
        return 0

    @T.prim_func(s_tir=True)
    def spread(x: T.handle, o: T.handle, w: T.handle, threads: T.int32) -> T.int32:
        T.func_attr({"global_symbol": "spread"})
        n = T.int64()
        X = T.match_buffer(x, (n, 3), "float32", align=4)
        O = T.match_buffer(o, (n, 3), "float32", align=4)
        W = T.match_buffer(w, (128,), "uint8", align=64)
        for t in T.parallel(threads):
            for i in range(n):
                if i % T.Cast("int64", threads) == T.Cast("int64", t):
                    for j in range(3):
                        O[i, j] = X[i, j] * T.Cast("float32", threads)
        return 0
"""


@functools.cache
def library() -> bytes:
    """The shared library that all the models below are entry points of."""
    import tvm

    from tvmlayers.codegen.pool import pool_functions

    integers = ("int32", 4), ("int64", 8)
    parts = [EMBEDDING.format(dtype=dtype, align=align) for dtype, align in integers]
    module = tvm.script.from_source(HEAD + "".join(parts) + VALUES)
    row = tl.targets.resolve("x86-64-v3")
    module.update(tvm.IRModule(pool_functions(row)))
    target = tl.targets.to_tvm(row)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lib.so"
        tvm.compile(module, target=target).export_library(str(path))
        return path.read_bytes()


@functools.cache
def functions() -> Any:
    """The loaded library."""
    return ffi.load_library(library())


def index(name: str, dtype: str, *shape: Any, kind: str = "index") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": dtype, "kind": kind}


def value(name: str, *shape: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": "float32", "kind": "value"}


def manifest(*entries: dict[str, Any]) -> dict[str, Any]:
    """A manifest of the entry points given, over an arena that begins with `TABLE`."""
    checks = [
        {"layer": "embedding", "kind": "index", "input": 0, "rows": ROWS},
        {"layer": "embedding", "kind": "offsets", "input": 1, "indices_input": 0},
    ]
    kinds = [slot["kind"] for slot in entries[0]["inputs"]]
    return {
        "tvmlayers_version": tl.__version__,
        "tvm_version": "0.27.0",
        "created": "2026-11-30T12:00:00+00:00",
        "model": {"class": "Sequential", "name": "handmade", "layers": []},
        "target": {"name": "x86-64-v3", "triple": "x86_64-unknown-linux-gnu"},
        "cpu_features": ["avx2", "fma"],
        "entries": list(entries),
        "checks": [check for check in checks if check["kind"] in kinds],
        "weights": [
            {
                "name": "embedding/embeddings",
                "shape": [ROWS, WIDTH],
                "dtype": "float32",
                "offset": 0,
            }
        ],
        "arena_bytes": ARENA_BYTES,
        "kernels": [],
    }


def embedding_manifest() -> dict[str, Any]:
    return manifest(
        *(
            {
                "symbol": f"embedding_{dtype}",
                "inputs": [index("ids", dtype, "n", LENGTH)],
                "outputs": [value("rows", "n", LENGTH, WIDTH)],
            }
            for dtype in ("int32", "int64")
        )
    )


def bag_manifest() -> dict[str, Any]:
    return manifest(
        *(
            {
                "symbol": f"bag_{dtype}",
                "inputs": [
                    index("indices", dtype, "n1"),
                    index("offsets", dtype, "n", kind="offsets"),
                ],
                "outputs": [value("sums", "n", WIDTH)],
            }
            for dtype in ("int32", "int64")
        )
    )


def scale_manifest() -> dict[str, Any]:
    outputs = [value("doubled", "n", 3), value("first", "n")]
    return manifest({"symbol": "scale", "inputs": [value("x", "n", 3)], "outputs": outputs})


def spread_manifest() -> dict[str, Any]:
    outputs = [value("times_threads", "n", 3)]
    return manifest({"symbol": "spread", "inputs": [value("x", "n", 3)], "outputs": outputs})


def make(described: dict[str, Any], threads: int | None = None) -> Compiled:
    """The compiled model that a manifest describes, its table in place."""
    arena = allocate_arena(ARENA_BYTES)
    view(arena, 0, TABLE.shape, "float32")[...] = TABLE
    return Compiled(described, functions().get_function, arena, threads, library)


def save(path: Path, described: dict[str, Any] | None = None) -> Path:
    """An artefact of the embedding model, or of the one described, at `path`."""
    artifact.write(
        path, described or embedding_manifest(), library(), {"embedding/embeddings": TABLE}
    )
    return path


class Foreign:
    """An array of some library that speaks DLPack and the array API, and nothing else."""

    def __init__(self, array: Any, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        class Namespace:
            from_dlpack = staticmethod(lambda array: Foreign(np.from_dlpack(array)))

        return Namespace


def run_python(program: str, *argv: Path, **environment: str) -> str:
    """What a fresh interpreter prints."""
    unwanted = ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
    inherited = {key: value for key, value in os.environ.items() if key not in unwanted}
    path = os.pathsep.join([str(Path(tl.__file__).parent.parent), str(Path(__file__).parent)])
    done = subprocess.run(
        [*STRICT, "-c", program, *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**inherited, "PYTHONPATH": path, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
