"""Use from many threads at once, each part begun by all of them together in a fresh process."""

from __future__ import annotations

import pytest
from handmade import run_python

# Threads take turns as often as they can. What comes out does not depend on when.
TOGETHER = """
import sys, threading, traceback
sys.setswitchinterval(1e-5)

def together(works):
    failed, start = [], threading.Barrier(len(works))
    def run(work):
        start.wait()
        try:
            work()
        except BaseException:
            failed.append(traceback.format_exc())
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not failed, failed[0]
"""

IMPORTS = {
    "eager": """
def work():
    import numpy as np, tvmlayers as tl
    assert tl.Dense(4, input_dim=6)(np.ones((2, 6), np.float32)).shape == (2, 4)
together([work] * 8)
""",
    "compile": """
def work():
    import numpy as np, tvmlayers as tl
    assert tl.compile(tl.Dense(4, input_dim=6))(np.ones((2, 6), np.float32)).shape == (2, 4)
together([work] * 8)
""",
    "beside_others": """
def layers():
    import numpy as np, tvmlayers as tl
    assert tl.Dense(4, input_dim=6)(np.ones((2, 6), np.float32)).shape == (2, 4)
def metadata():
    import importlib.metadata
    for _ in range(20):
        assert importlib.metadata.metadata("numpy")["Name"] == "numpy"
def runtime():
    import tvmlayers.runtime.compiled, tvm_ffi
    assert callable(tvm_ffi.cpp.load_inline)
def standard():
    import colorsys, sched, wave, cmd, code, bdb, pdb, plistlib, xmlrpc.client
together([layers, metadata, runtime, standard] * 3)
assert all(type(finder).__name__ != "_LeanFinder" for finder in sys.meta_path)
""",
}


@pytest.mark.parametrize("program", IMPORTS)
def test_many_threads_import_and_call_for_the_first_time(program: str) -> None:
    run_python(f"{TOGETHER}\n{IMPORTS[program]}")


INDEPENDENT = """
import numpy as np, tvmlayers as tl
def model(seed):
    layers = [tl.Dense(5, "relu", seed=seed), tl.Dense(3, seed=seed + 1)]
    return tl.Sequential([tl.Input((4,)), *layers])
x = np.ones((2, 4), np.float32)
def work(seed):
    def compile_():
        for turn in range(2):
            made = tl.compile(model(seed + turn))
            kernels = [layer.weights["kernel"] for layer in model(seed + turn).layers]
            wanted = np.maximum(x @ kernels[0], 0) @ kernels[1]
            np.testing.assert_allclose(made(x), wanted, rtol=1e-5, atol=1e-6)
    return compile_
together([work(100 * place) for place in range(8)])
"""


def test_independent_models_are_compiled_at_once() -> None:
    run_python(f"{TOGETHER}\n{INDEPENDENT}")


SHARED = """
import numpy as np, tvmlayers as tl
x = np.ones((2, 4), np.float32)
for turn in range(2):
    layer, results = tl.Dense(3, input_dim=4), []
    together([lambda: results.append(layer(x))] * 6)
    wanted = x @ layer.weights["kernel"]
    assert len(layer._compiled) == 1
    for result in results:
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)

# Each of these models gives the layer, and its own, other names.
shared = tl.Dense(3, input_dim=4)
def part(layers):
    def work():
        own = [tl.Dense(4, seed=1) for _ in range(layers)]
        model = tl.Sequential([tl.Input((4,)), *own, shared])
        made = tl.compile(model)
        assert {w["name"] for w in made.manifest["weights"]} >= {"dense/kernel", "dense/bias"}
        wanted = x
        for layer in model.layers:
            wanted = wanted @ layer.weights["kernel"] + layer.weights["bias"]
        np.testing.assert_allclose(made(x), wanted, rtol=1e-5, atol=1e-6)
        assert len(model.weights) == 2 * layers + 2
    return work
together([part(layers) for layers in (0, 1, 2, 1)])

# A Sequential that is built anew for inputs of another rank, called with both.
model = tl.Sequential([tl.Dense(3, input_dim=4), tl.Dense(2)])
def call(*shape):
    return lambda: model(np.ones(shape, np.float32))
together([call(2, 4), call(2, 3, 4)] * 2)
"""


def test_layers_and_models_are_shared_by_threads() -> None:
    run_python(f"{TOGETHER}\n{SHARED}")


SAVED = """
import os, tempfile, numpy as np, tvmlayers as tl
x = np.ones((2, 4), np.float32)
model = tl.Sequential([tl.Dense(3, input_dim=4)])
compiled = tl.compile(model)
wanted = compiled(x)
folder = tempfile.mkdtemp()
def save():
    compiled.save(os.path.join(folder, "one.tvml"))
    np.testing.assert_array_equal(tl.load(os.path.join(folder, "one.tvml"))(x), wanted)
def save_model():
    model.save(os.path.join(folder, "one.safetensors"))
    loaded = tl.load_model(os.path.join(folder, "one.safetensors"))
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
together([save, save_model] * 3)
assert sorted(os.listdir(folder)) == ["one.safetensors", "one.tvml"]
"""


def test_models_are_saved_and_loaded_by_threads() -> None:
    run_python(f"{TOGETHER}\n{SAVED}")
