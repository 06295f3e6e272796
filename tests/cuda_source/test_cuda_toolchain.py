"""The CUDA source compiles for every target, spills nothing, and artefacts describe themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from samples import every_kernel

import tvmlayers as tl
from tvmlayers.codegen.cuda import nvrtc, toolchain
from tvmlayers.codegen.cuda.compiler import lower_model
from tvmlayers.dtypes import HALF_DTYPES
from tvmlayers.layers import as_model
from tvmlayers.runtime.cuda import CudaCompiled
from tvmlayers.schedule.cuda import CudaSelector
from tvmlayers.spaces.cuda_lookup import ROWS_IN_FLIGHT, THREADS
from tvmlayers.targets import GPUS

needs_compiler = pytest.mark.skipif(
    toolchain.available() is None, reason="neither nvcc nor NVRTC is here: tvmlayers[cuda]"
)
needs_nvrtc = pytest.mark.skipif(nvrtc.find() is None, reason="NVRTC is not here: tvmlayers[cuda]")


@needs_compiler
@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        *((target, "float32") for target in sorted(GPUS)),
        *((target, dtype) for target in ("cuda-sm80", "cuda-sm90") for dtype in HALF_DTYPES),
    ],
)
def test_every_kernel_compiles_for_every_target_without_spills(target: str, dtype: str) -> None:
    compiled = tl.compile(every_kernel(dtype), target=target)
    assert isinstance(compiled, CudaCompiled)
    row = compiled.manifest["cuda"]
    assert row["arch"] == GPUS[target].arch
    assert sorted(row["resources"]) == sorted(row["kernels"])
    spilled = {n: r for n, r in row["resources"].items() if r["spill_stores"] + r["spill_loads"]}
    assert spilled == {}
    assert all(r["shared"] <= GPUS[target].static_shared for r in row["resources"].values())


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", *HALF_DTYPES])
def test_the_most_rows_of_a_bag_in_flight_spill_nothing(dtype: str) -> None:
    target = GPUS["cuda-sm90"]
    most = {"rows_in_flight": max(ROWS_IN_FLIGHT), "threads": max(THREADS)}
    for mode, padding_idx in (("sum", None), ("mean", 3), ("max", None)):
        layer = tl.EmbeddingBag(100, 64, mode=mode, padding_idx=padding_idx, dtype=dtype)
        lowered, _, _ = lower_model(as_model(layer), CudaSelector(target, fixed={"bag": most}))
        images = toolchain.device_images(lowered.source, lowered.kernels, target)
        assert len(images.resources) == len(lowered.kernels)
        assert not any(r["spill_stores"] + r["spill_loads"] for r in images.resources.values())


@needs_nvrtc
@pytest.mark.parametrize("dtype", ["float32", *HALF_DTYPES])
def test_nvrtc_alone_is_enough(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    from tvmlayers.codegen.cuda.compiler import source_of

    lowered = source_of(as_model(every_kernel(dtype)), GPUS["cuda-sm80"])
    images = toolchain.device_images(lowered.source, lowered.kernels, GPUS["cuda-sm80"])
    assert images.compiler.startswith("nvrtc")
    assert images.binaries["cubin"].startswith(b"\x7fELF")
    assert b".target sm_80" in images.binaries["ptx"]
    assert sorted(images.resources) == sorted(kernel.name for kernel in lowered.kernels)


@pytest.mark.parametrize(
    ("driver", "taken"), [((1 << 30,), "13"), ((13, 0), "13"), ((12, 8), "12"), ((11, 4), "13")]
)
def test_the_newest_nvrtc_that_the_driver_takes_is_taken_whatever_its_folder_is_called(
    driver: tuple[int, ...], taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda_nvrtc/lib/libnvrtc.so.12", "cu13/lib/libnvrtc.so.13"):
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(nvrtc, "_driver_release", lambda: driver)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    nvrtc.find.cache_clear()
    try:
        assert str(nvrtc.find()).endswith(f"libnvrtc.so.{taken}")
    finally:
        nvrtc.find.cache_clear()


@needs_nvrtc
def test_an_nvcc_that_refuses_the_source_gives_way_to_nvrtc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvcc", "ptxas"):
        (tmp_path / name).write_text("#!/bin/sh\necho unsupported GNU version >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    target = GPUS["cuda-sm90"]
    lowered, _, _ = lower_model(as_model(tl.Dense(8, input_dim=16)), CudaSelector(target))
    assert toolchain.available() == "nvcc"
    images = toolchain.device_images(lowered.source, lowered.kernels, target)
    assert images.compiler.startswith("nvrtc")
    monkeypatch.setattr(nvrtc, "find", lambda: None)
    with pytest.raises(tl.ConfigError, match=r"(?s)nvcc refused .* too old .*unsupported GNU"):
        toolchain.device_images(lowered.source, lowered.kernels, target)


def test_without_a_compiler_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(nvrtc, "find", lambda: None)
    with pytest.raises(tl.MissingDependencyError, match=r"pip install 'tvmlayers\[cuda\]'"):
        toolchain.device_images("", [], GPUS["cuda-sm80"])


@needs_compiler
def test_inspect_describes_an_artefact_of_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "seed.tvml"
    layers = [tl.Embedding(50, 8, input_length=4), tl.Flatten(), tl.Dense(6, "softmax")]
    tl.compile(tl.Sequential(layers), target="cuda-sm90").save(path)
    done = subprocess.run(
        [sys.executable, "-m", "tvmlayers", "inspect", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for part in ("cuda-sm90", "a GPU of sm_90 (cubin) or newer (PTX)", "spilled bytes"):
        assert part in " ".join(done.stdout.split())


def test_a_report_of_the_compiler_is_read() -> None:
    log = """
ptxas info    : Compiling entry function 'k0' for 'sm_80'
ptxas info    : Function properties for k0
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 16 bytes cumulative stack size, 19456 bytes smem
"""
    assert toolchain.read_report(log) == {
        "k0": {
            "registers": 72,
            "shared": 19456,
            "stack": 16,
            "spill_stores": 12,
            "spill_loads": 8,
        }
    }
