"""Named hardware, and what is found out about this machine."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from tvmlayers import targets
from tvmlayers.errors import TargetError, UnknownNameError
from tvmlayers.targets import arm, cuda, x86


def pretend_flags(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], machine: str = "x86_64"
) -> None:
    monkeypatch.delenv(targets.VARIABLE, raising=False)
    monkeypatch.setattr(targets.host, "read_cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(targets.host, "machine", lambda: machine)


@pytest.mark.parametrize("row", targets.ROWS, ids=lambda row: row.name)
def test_native_is_the_best_row_whose_flags_are_there(
    row: targets.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_flags(monkeypatch, (*row.cpu_flags, "hypervisor"), row.architecture)
    assert targets.native().name == row.name


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "sapphirerapids"])
def test_native_is_the_row_that_the_variable_names(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_flags(monkeypatch, x86.SAPPHIRERAPIDS_FLAGS)
    monkeypatch.setattr(targets.host, "read_caches", lambda: {"l2": 2})
    monkeypatch.setattr(targets.host, "physical_cores", lambda: 7)
    monkeypatch.setenv(targets.VARIABLE, name)
    expected = dataclasses.replace(targets.TARGETS[name], l2=2, cores=7)
    assert targets.native() == targets.resolve("native") == expected


def test_an_empty_variable_names_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_flags(monkeypatch, x86.V4_FLAGS)
    monkeypatch.setenv(targets.VARIABLE, "")
    assert targets.native().name == "x86-64-v4"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("x86-64-v4", TargetError, "TVMLAYERS_NATIVE is x86-64-v4, .*lacks: avx512f, .*unset it"),
        ("neoverse-n1", TargetError, "TVMLAYERS_NATIVE is neoverse-n1, .*is aarch64 code"),
        ("x86-64-v5", UnknownNameError, "unknown TVMLAYERS_NATIVE 'x86-64-v5'.*x86-64-v4"),
        ("cuda-sm90", UnknownNameError, "unknown TVMLAYERS_NATIVE 'cuda-sm90'"),
        ("native", UnknownNameError, "unknown TVMLAYERS_NATIVE 'native'"),
    ],
)
def test_a_variable_that_names_no_row_of_this_cpu_is_refused(
    name: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_flags(monkeypatch, x86.V3_FLAGS)
    monkeypatch.setenv(targets.VARIABLE, name)
    for ask in (targets.native, targets.resolve):
        with pytest.raises(error, match=message):
            ask()


def test_native_on_a_cpu_without_avx2_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_flags(monkeypatch, tuple(set(x86.V3_FLAGS) - {"avx2", "fma"}))
    with pytest.raises(TargetError, match="avx2, fma"):
        targets.native()


def test_native_on_an_architecture_without_rows_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_flags(monkeypatch, (), "riscv64")
    with pytest.raises(TargetError, match="riscv64; supported are x86_64, aarch64"):
        targets.native()


def test_code_of_another_architecture_does_not_run_whatever_the_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = targets.TARGETS["neoverse-n1"]
    pretend_flags(monkeypatch, row.cpu_flags)
    assert targets.obstacle(row.triple, row.cpu_flags) == (
        "is aarch64 code, and this machine is x86_64"
    )
    pretend_flags(monkeypatch, row.cpu_flags, "aarch64")
    assert targets.obstacle("arm64-linux-gnu", row.cpu_flags) == ""
    assert "lacks: sve" in targets.obstacle(row.triple, ("asimd", "sve"))


def test_an_aarch64_cpu_is_asked_by_the_words_of_the_kernel() -> None:
    every = {*arm.HWCAP.values(), *arm.HWCAP2.values()}
    assert every.issuperset(arm.V1_FLAGS)
    assert every.issuperset(arm.LLVM_NAMES)


def test_code_of_an_older_core_of_the_same_family_serves_a_newer_one() -> None:
    assert targets.ancestors(targets.TARGETS["znver5"]) == ["znver4", "x86-64-v4", "x86-64-v3"]
    assert targets.ancestors(targets.TARGETS["sapphirerapids"]) == ["x86-64-v4", "x86-64-v3"]
    assert targets.ancestors(targets.TARGETS["neoverse-v1"]) == [
        "neoverse-n1",
        "cortex-a72",
        "armv8-a",
    ]
    assert targets.ancestors(targets.TARGETS["armv8-a"]) == []


def test_native_takes_caches_and_cores_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.host, "read_caches", lambda: {"l1d": 1, "l2": 2})
    monkeypatch.setattr(targets.host, "physical_cores", lambda: 7)
    found = targets.native()
    assert (found.l1d, found.l2, found.cores) == (1, 2, 7)
    assert found.l3 == targets.TARGETS[found.name].l3


def test_flags_are_those_that_every_cpu_has(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("model name\t: Core avx512f\nflags\t\t: fma avx2 amx\n\nflags\t\t: avx2 fma\n")
    assert targets.read_cpu_flags(str(path)) == {"fma", "avx2"}


def test_a_cpu_whose_name_is_no_text_has_its_flags(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_bytes(b"model name\t: Core\xae\nflags\t\t: avx2 fma\n")
    assert targets.read_cpu_flags(str(path)) == {"fma", "avx2"}


def test_no_cpuinfo_means_no_flags(tmp_path: Path) -> None:
    assert targets.read_cpu_flags(str(tmp_path / "absent")) == frozenset()


def test_missing_features_keep_the_order_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_flags(monkeypatch, ("fma",))
    assert targets.missing_features(("avx2", "fma", "amx_tile")) == ["avx2", "amx_tile"]


def test_caches_are_read_by_level_without_the_instruction_cache(tmp_path: Path) -> None:
    described = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2M")]
    for number, words in enumerate(described):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, word in zip(("level", "type", "size"), words, strict=True):
            (folder / name).write_text(word + "\n")
    assert targets.read_caches(str(tmp_path)) == {"l1d": 48 << 10, "l2": 2 << 20}


@pytest.mark.parametrize("name", targets.NAMES[1:])
def test_a_name_resolves_to_its_row(name: str) -> None:
    assert targets.resolve(name) == targets.TARGETS[name]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'sapphirerapids'"):
        targets.resolve("saphirerapids")


def test_a_dict_a_json_string_and_a_tvm_target_mean_the_same() -> None:
    import tvm

    described = {"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 3}
    expected = dataclasses.replace(targets.TARGETS["x86-64-v3"], cores=3)
    as_json = '{"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 3}'
    assert targets.resolve(described) == expected
    assert targets.resolve(as_json) == expected
    assert targets.resolve(tvm.target.Target(described)) == expected


@pytest.mark.parametrize("row", targets.ROWS, ids=lambda row: row.name)
def test_a_target_survives_its_description(row: targets.Target) -> None:
    assert targets.resolve(row) is row
    assert targets.resolve(row.describe()) == row


def test_a_core_without_a_row_is_described_by_llvm() -> None:
    found = targets.resolve({"kind": "llvm", "mcpu": "cooperlake"})
    assert (found.mcpu, found.vector_bytes) == ("cooperlake", 64)
    assert "avx512_bf16" in found.cpu_flags
    assert "amx_tile" not in found.cpu_flags


def test_an_arm_core_without_a_row_is_described_by_llvm_from_the_nearest_row() -> None:
    found = targets.resolve({"kind": "llvm", "mcpu": "neoverse-v2"})
    assert (found.mcpu, found.architecture, found.lanes("float32")) == ("neoverse-v2", "aarch64", 4)
    assert set(found.cpu_flags) > {"sve2", "i8mm"}
    assert targets.ancestors(found)[0] == "neoverse-v1"
    assert targets.resolve({"kind": "llvm", "mcpu": "cortex-a53"}).l2 == 1 << 20


@pytest.mark.parametrize("mcpu", [{}, {"mcpu": "generic"}])
def test_an_arm_triple_without_a_core_is_armv8_a(mcpu: dict[str, str]) -> None:
    found = targets.resolve({"kind": "llvm", "mtriple": "aarch64-linux-gnu", **mcpu})
    assert (found.name, found.triple) == ("armv8-a", "aarch64-linux-gnu")


def test_an_added_attribute_is_a_required_flag() -> None:
    found = targets.resolve({"kind": "llvm", "mcpu": "x86-64-v3", "mattr": ["+avxvnni"]})
    assert "avx_vnni" in found.cpu_flags


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"kind": "rocm"}, "kind 'llvm'"),
        ({"kind": "cuda"}, "names no arch"),
        ({"kind": "cuda", "arch": "sm_61"}, "unknown arch 'sm_61'"),
        ({"kind": "llvm"}, "names no mcpu"),
        ({"kind": "llvm", "mcpu": "nehalem"}, "older than x86-64-v3"),
        ({"kind": "llvm", "mtriple": "armv7a-linux-gnueabihf"}, "supported are x86_64, aarch64"),
        ({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cooperlake"}, "unknown mcpu"),
        ({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "znver4"}, "is an x86_64 core"),
        (
            {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "neoverse-n1"},
            "is an aarch64 core",
        ),
        ("{not json", "not valid JSON"),
        (3, "names are native"),
    ],
)
def test_what_is_no_target_is_refused(target: Any, message: str) -> None:
    with pytest.raises((TargetError, UnknownNameError), match=message):
        targets.resolve(target)


@pytest.mark.parametrize("row", targets.GPUS.values(), ids=lambda row: row.name)
def test_a_gpu_is_found_by_name_by_arch_and_by_its_description(row: targets.CudaTarget) -> None:
    for described in (row.name, {"kind": "cuda", "arch": row.arch}, row.describe()):
        assert targets.resolve(described) == row
    with pytest.raises(TargetError, match="targets that are CPUs"):
        targets.resolve_cpu(row)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda-sm70", "7.0 is older than cuda-sm80, the oldest supported"),
        ("cuda-sm100", "the PTX of cuda-sm90 runs there, so compile for cuda-sm90"),
        ("cuda-sm120", "the PTX of cuda-sm90 runs there"),
        ("cuda-sm87", "the PTX of cuda-sm86 runs there"),
        ("cuda-hopper", "Known: .*cuda-native"),
    ],
)
def test_a_gpu_without_a_row_is_answered_with_the_row_that_runs_there(
    name: str, message: str
) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown target '{name}'.*{message}"):
        targets.resolve(name)


def test_an_arch_without_a_row_is_answered_likewise() -> None:
    with pytest.raises(UnknownNameError, match="unknown arch 'sm_100a'; the PTX of cuda-sm90"):
        targets.resolve({"kind": "cuda", "arch": "sm_100a"})


@pytest.mark.parametrize("name", ["cuda", "cuda-native"])
def test_without_a_driver_compiling_for_a_named_gpu_is_offered(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cuda.present
    monkeypatch.setattr(cuda, "present", lambda **more: real("libnone.so", **more))
    with pytest.raises(TargetError, match="install it, or compile for a GPU elsewhere by its name"):
        targets.resolve(name)


def test_who_needs_the_gpu_itself_is_offered_no_name() -> None:
    with pytest.raises(TargetError, match=r"install it$"):
        cuda.present("libnone.so")


def test_lanes_fill_a_register() -> None:
    assert targets.TARGETS["x86-64-v4"].lanes("float32") == 16
    assert targets.TARGETS["x86-64-v3"].lanes("float64") == 4


def test_tvm_target_has_the_number_of_cores_that_tuning_needs() -> None:
    made = targets.to_tvm(targets.TARGETS["x86-64-v3"])
    assert (made.attrs["mcpu"], made.attrs["num-cores"]) == ("x86-64-v3", 4)


@pytest.mark.parametrize(
    ("name", "register"),
    [(row.name, {32: "ymm", 64: "zmm"}[row.vector_bytes]) for row in x86.ROWS],
)
def test_a_loop_that_llvm_vectorises_uses_the_widest_registers(name: str, register: str) -> None:
    import tvm

    script = """
@I.ir_module
class M:
    @T.prim_func(s_tir=True)
    def f(a: T.handle, b: T.handle):
        T.func_attr({"global_symbol": "f"})
        A = T.match_buffer(a, (4096,), "float32", align=4)
        B = T.match_buffer(b, (4096,), "float32", align=4)
        for i in T.serial(4096):
            B[i] = A[i] * A[i] + B[i]
"""
    target = targets.to_tvm(targets.resolve(name))
    assembly = tvm.compile(tvm.script.from_source(script), target=target).mod.inspect_source("asm")
    used = re.findall(r"vfmadd.*?%([xyz]mm)", assembly)
    assert register in used
    assert not any(other > register for other in used)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_row_says_where_the_numbers_of_its_schedules_come_from(name: str) -> None:
    row = targets.TARGETS[name]
    assert row.fitted.source
    assert re.match(r"2026-\d\d-\d\d", row.fitted.date)
    described = row.describe()
    assert "fitted" not in described, "the numbers are no part of the file format"
    assert targets.resolve(described).fitted == row.fitted
