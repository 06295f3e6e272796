"""Kernels in LLVM modules of their own, apart from the entry points, and loops in functions."""

from __future__ import annotations

import ctypes
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers import targets
from tvmlayers.codegen.compiler import assembly
from tvmlayers.layers import as_model
from tvmlayers.schedule import Selector


def classifier(seed: int) -> tl.Model:
    """Kernels of the same names whatever the seed, in several modules."""
    model = tl.Sequential(
        [
            tl.Embedding(30, 64, input_length=5),
            tl.Flatten(),
            tl.Dense(96, "relu", input_dim=320),
            tl.Dense(10, "softmax"),
        ]
    )
    model.build()
    rng = np.random.default_rng(seed)
    model.set_weights([rng.standard_normal(w.shape, np.float32) for w in model.get_weights()])
    return model


def ids(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 30, (rows, 5))


def expected(model: tl.Model, x: np.ndarray) -> np.ndarray:
    table, w0, b0, w1, b1 = (w.astype(np.float64) for w in model.get_weights())
    hidden = np.maximum(table[x].reshape(len(x), -1) @ w0 + b0, 0)
    powers = hidden @ w1 + b1
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def library(path: Path, folder: Path) -> Path:
    """The shared library out of an artefact."""
    with zipfile.ZipFile(path) as archive:
        return Path(archive.extract("lib.so", folder))


@pytest.mark.parametrize("rows", [1, 6, 33, 130])
def test_entry_points_call_kernels_of_other_modules(rows: int, tmp_path: Path) -> None:
    model = classifier(0)
    compiled = tl.compile(model)
    compiled.save(tmp_path / "model.tvml")
    code = assembly(as_model(model), Selector(targets.resolve("native")))
    assert "__tvm_ffi_addresses" in code
    assert "__tvm_ffi_bind" in code
    for call in (compiled, tl.load(tmp_path / "model.tvml")):
        for dtype in ("int32", "int64"):
            result = call(ids(rows).astype(dtype))
            np.testing.assert_allclose(result, expected(model, ids(rows)), rtol=1e-4, atol=1e-6)


def test_two_models_with_kernels_of_the_same_names_keep_their_own(tmp_path: Path) -> None:
    models = [classifier(seed) for seed in (1, 2)]
    loaded = []
    for place, model in enumerate(models):
        path = tmp_path / f"{place}.tvml"
        tl.compile(model).save(path)
        loaded.append(tl.load(path))
        handle = ctypes.CDLL(str(library(path, tmp_path / str(place))))
        assert handle.__tvm_ffi_forward_0
        for name in ("tvmlayers_kernel0_0", "tvmlayers_kernel0_1", "tvmlayers_kernel1_0"):
            assert not hasattr(handle, name)
    for model, call in zip(models, loaded, strict=True):
        np.testing.assert_allclose(call(ids(9)), expected(model, ids(9)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ['say "Gr\u00fc\u00dfe"', "a@b", "back\\slash", "two words"])
def test_names_of_layers_are_not_the_linkers_business(name: str, tmp_path: Path) -> None:
    model = tl.Sequential([tl.Dense(70, "relu", input_dim=64, name=name), tl.Dense(3)])
    model.build()
    x = np.random.default_rng(3).standard_normal((40, 64), np.float32)
    compiled = tl.compile(model)
    compiled.save(tmp_path / "model.tvml")
    w0, b0, w1, b1 = (w.astype(np.float64) for w in model.get_weights())
    wanted = np.maximum(x @ w0 + b0, 0) @ w1 + b1
    for call in (compiled, tl.load(tmp_path / "model.tvml")):
        np.testing.assert_allclose(call(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_small_model_is_one_module() -> None:
    model = as_model(tl.Sequential([tl.Embedding(30, 8, input_length=3)]))
    code = assembly(model, Selector(targets.resolve("native")))
    assert "__tvm_ffi_addresses" not in code
    assert "__tvm_ffi_bind" not in code


def test_what_goes_wrong_in_a_kernel_is_told() -> None:
    """Modules that are on their way by then do not keep it from the caller."""
    model = tl.Sequential(
        [tl.Dense(64, "tanh", input_dim=64), tl.Dense(64, activation=lambda x: x.no_such())]
    )
    with pytest.raises(tl.ConfigError, match="no_such"):
        tl.compile(model)


@pytest.mark.parametrize(
    ("target", "activation"),
    [
        ("x86-64-v3", "tanh"),
        ("x86-64-v4", "gelu"),
        ("x86-64-v4", "tanh"),
        ("sapphirerapids", "tanh"),
    ],
)
def test_sums_stay_in_registers_beside_a_long_activation(target: str, activation: str) -> None:
    """Its constants once took so many registers that each multiply-add went through memory."""
    dense = tl.Dense(256, activation, input_dim=768)
    code = assembly(as_model(dense), Selector(targets.resolve(target), use_records=False))
    blocks = re.split(r"^(?=\.LBB\w+:)", code, flags=re.M)
    loops = [block for block in blocks if block.count("vfmadd231ps") >= 24]
    tallest = [loop.split("\tj")[0] for loop in loops if "prefetcht0" in loop]
    assert len(tallest) >= 2
    assert [len(re.findall(r"\(%rsp\)", loop)) for loop in tallest] == [0] * len(tallest)
