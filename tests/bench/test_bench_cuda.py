"""`bench cuda`: what of it needs no GPU. FBGEMM's modules are looked at on the CPU."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import cuda_cases, cuda_dense, cuda_fbgemm, cuda_lookups, cuda_rows, hardware, work  # noqa: E402 - without torch the file is skipped first
from bench.__main__ import main, parser  # noqa: E402 - without torch the file is skipped first
from bench.peers import Unsupported  # noqa: E402 - without torch the file is skipped first
from bench.specs import parse  # noqa: E402 - without torch the file is skipped first
from tvmlayers.errors import TargetError  # noqa: E402 - without torch the file is skipped first
from tvmlayers.targets import GPUS  # noqa: E402 - without torch the file is skipped first

# FBGEMM calls what torch has deprecated, and tries what its build lacks, as it is imported.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:[\s\S]*Failed to import:DeprecationWarning"),
]


def arguments(*words: str) -> argparse.Namespace:
    return parser().parse_args(["cuda", *words])


def test_all_public_cases_are_chosen_or_those_of_some_kinds() -> None:
    assert {case.kind for _, case in cuda_cases.chosen()} == {"dense", "embedding", "bag"}
    assert {case.kind for _, case in cuda_cases.chosen(["bag"])} == {"bag"}
    dtypes = {dtype for dtype, case in cuda_cases.chosen() if case.kind == "dense"}
    assert dtypes == {"float32", "float16", "bfloat16"}
    assert arguments().peers == ["torch.compile", "fbgemm"]
    assert arguments("--peers", "fbgemm").peers == ["fbgemm"]
    assert arguments("--peers").peers == []


def test_large_layers_are_timed_with_every_epilogue() -> None:
    specs = {case.spec for _, case in cuda_cases.chosen(["dense"], ["float16"])}
    assert {f"4096x4096x4096:{last}" for last in ("linear", "gelu", "relu")} <= specs


def test_strings_are_cases_of_the_first_kind_of_that_form() -> None:
    given = ["8x8x8", "50x16x4x5:sum"]
    kinds = [case.kind for _, case in cuda_cases.chosen(None, ["float32"], given)]
    assert kinds == ["dense", "bag"]
    ((_, case),) = cuda_cases.chosen(["embedding"], None, ["8x8x8"])
    assert case.kind == "embedding"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cases", "8x8"], "no case is called '8x8'; expected dense: MxKxN"),
        (["--cases", "8x8x8:cubed"], "no reference for activation 'cubed'"),
        (["--kind", "bag", "--dtype", "float16"], "timed in float32, got float16"),
        (["--resume"], "--resume needs the --json FILE"),
    ],
)
def test_what_cannot_be_timed_is_said_before_a_gpu_is_looked_for(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cuda", *words]) == 2
    assert message in capsys.readouterr().err


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@NO_GPU
@pytest.mark.parametrize(
    "words",
    [["cuda", "--kind", "bag"], ["--target", "cuda-sm90"], ["--kind", "bag", "--target=cuda"]],
)
def test_without_a_gpu_it_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "no GPU can be found" in capsys.readouterr().err


@NO_GPU
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cuda", "--target", "neoverse-n1"], "takes targets that are GPUs, got neoverse-n1"),
        (["cuda-static", "--target", "neoverse-n1"], "takes targets that are GPUs"),
        (["cuda-static", "--target", "nope"], "unknown target 'nope'"),
        (["dense", "--target", "cuda-sm90"], "bench cuda --kind dense --target cuda-sm90"),
        (["model", "--target", "cuda-sm90"], "GPUs have dense, embedding and bag"),
        (["bag", "--target", "neoverse-n1"], "aarch64 code, and this machine is"),
        (["dense", "--target", "nope"], "unknown target 'nope'"),
    ],
)
def test_a_target_that_cannot_be_measured_is_refused_before_anything_is(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


def test_a_gpu_older_than_the_target_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "present", lambda: GPUS["cuda-sm86"])
    assert hardware.gpu_here("cuda-sm80").name == "cuda-sm80"
    with pytest.raises(TargetError, match="GPU here, which is cuda-sm86; take --target cuda-sm86"):
        hardware.gpu_here("cuda-sm90")


def test_options_of_a_cpu_need_a_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--target", "native"])
    assert "expected a kind first (dense, embedding, bag, model)" in capsys.readouterr().err


def test_bytes_are_those_of_rows_indices_and_results() -> None:
    def bytes_of(kind: str, spec: str) -> int:
        return cuda_lookups.moved_bytes(given(kind, spec))

    assert bytes_of("embedding", "50x16x20:uniform") == 20 * 16 * 4 * 2 + 20 * 8
    assert bytes_of("bag", "50x16x4x5:sum:uniform") == 20 * (16 * 4 + 8) + 4 * 16 * 4
    ragged = given("bag", "50x16x4x0..5:sum:uniform")
    count = len(ragged.flat[0])
    assert cuda_lookups.moved_bytes(ragged) == count * (64 + 8) + 4 * 8 + 4 * 64


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("embedding", "50x16x20:zipf"),
        ("bag", "333x16x31x3:mean:uniform"),
        ("bag", "333x16x31x0..9:sum:uniform"),
        ("bag", "333x16x31x2:max:uniform"),
    ],
)
def test_ours_and_pytorch_are_made_of_the_same_case(
    kind: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_fbgemm, "missing", lambda: "none for this test")
    rotated = given(kind, spec, "rotated")
    compiled = cuda_lookups.compile_layer(rotated, "native")
    ways, skipped = cuda_lookups.ways_of(rotated, compiled, ["fbgemm"], device="cpu")
    assert skipped == {"fbgemm": "none for this test"}
    assert list(ways) == ["ours", "torch"]
    assert len(ways["ours"]) == len(rotated.indices) > 1
    turns = {name: cuda_rows.rotation(calls) for name, calls in ways.items()}
    for _ in range(len(rotated.indices) + 1):
        torch.testing.assert_close(turns["ours"](), turns["torch"]())


def given(kind: str, spec: str, layout: str = "repeated") -> Any:
    return work.make(parse(kind, spec), layout, "float32", "int64", 0)


def pooled(spec: str) -> tuple[Any, dict[str, Any]]:
    """What PyTorch pools, and each module of FBGEMM, on the CPU."""
    bags = given("bag", spec)
    table, ids = torch.from_numpy(bags.table), torch.from_numpy(bags.flat[0])
    starts, mode = bags.offsets[0], bags.case.mode
    ends = torch.from_numpy(np.append(starts, ids.numel()))
    wanted = torch.nn.functional.embedding_bag(ids, table, torch.from_numpy(starts), mode=mode)
    ways = cuda_fbgemm.ways(table, mode, [(ids, ends)], device="cpu")
    return wanted, {name: call() for name, (call,) in ways.items()}


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("length", ["3", "0..9"])
def test_fbgemm_pools_as_pytorch_does(mode: str, length: str) -> None:
    pytest.importorskip("fbgemm_gpu")
    wanted, made = pooled(f"333x16x31x{length}:{mode}:uniform")
    assert set(made) == {"fbgemm training", "fbgemm inference"}
    for each in made.values():
        torch.testing.assert_close(each, wanted)


def test_fbgemm_looks_rows_up() -> None:
    pytest.importorskip("fbgemm_gpu")
    rows = given("embedding", "50x16x20:uniform")
    table, ids = torch.from_numpy(rows.table), torch.from_numpy(rows.indices[0])
    ends = torch.arange(len(ids) + 1)
    ways = cuda_fbgemm.ways(table, cuda_fbgemm.LOOKUP, [(ids, ends)], device="cpu")
    for (call,) in ways.values():
        torch.testing.assert_close(call(), table[ids])


def test_what_fbgemm_does_not_do_is_left_out_with_the_reason() -> None:
    with pytest.raises(Unsupported, match="not of max"):
        pooled("333x16x31x3:max:uniform")
    with pytest.raises(Unsupported, match="multiple of 4 columns, not of 17"):
        pooled("333x17x31x3:sum:uniform")


def test_a_build_without_cuda_is_named() -> None:
    pytest.importorskip("fbgemm_gpu")
    if torch.cuda.is_available():
        pytest.skip("there may be a build for CUDA here")
    said = cuda_fbgemm.missing()
    assert said is not None
    assert "has no CUDA kernels; pip install fbgemm-gpu" in said


def test_without_fbgemm_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    said = cuda_fbgemm.missing()
    assert said is not None
    assert "does not load" in said
    assert "pip install fbgemm-gpu" in said


def test_torch_compile_compiles_every_case_for_its_shape() -> None:
    seen: list[list[Any]] = []

    def backend(module: Any, inputs: list[Any]) -> Any:
        seen.append([each for tensor in inputs for each in tensor.shape])
        return module.forward

    weight = torch.ones(5, 3)
    limit = torch._dynamo.config.recompile_limit
    sizes = range(2, limit + 5)  # one body for more cases than dynamo compiles of one
    for m in sizes:

        def eager(x: Any) -> Any:
            return torch.nn.functional.linear(x, weight)

        cuda_dense.compiled(eager, backend=backend)(torch.ones(m, 3))
    assert len(seen) == len(sizes)
    assert all(isinstance(size, int) for shape in seen for size in shape)


def test_torch_compile_does_not_go_on_eagerly_past_its_limit() -> None:
    def doubled(x: Any) -> Any:
        return 2 * x

    call = cuda_dense.compiled(doubled, backend="eager")
    limit = torch._dynamo.config.recompile_limit
    for m in range(2, limit + 2):
        call(torch.ones(m))
    with pytest.raises(Exception, match="recompile_limit"):
        call(torch.ones(limit + 2))
