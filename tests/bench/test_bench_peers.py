"""Every peer gives the right result in each of its ways, or says why it leaves a case out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import ours, peers, reference, work  # noqa: E402 - without torch the file is skipped first
from bench.__main__ import chosen, parser  # noqa: E402 - without torch the file is skipped first
from bench.session import Session  # noqa: E402 - without torch the file is skipped first
from bench.settings import Settings  # noqa: E402 - without torch the file is skipped first
from bench.specs import parse  # noqa: E402 - without torch the file is skipped first

# FBGEMM calls what torch has deprecated, as it is imported.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")

SETTINGS = Settings("native", 1)
CASES = [
    *(("dense", f"3x17x31:{name}") for name in ("linear", *reference.ACTIVATIONS)),
    ("dense", "31x333x1:relu"),
    ("embedding", "31x17x333:zipf"),
    ("bag", "333x17x31x3:sum"),
    ("bag", "333x17x31x3:mean"),
    ("model", "seed@3"),
    ("model", "text@3"),
]
KINDS = {
    "onnxruntime": ("dense", "embedding", "bag", "model"),
    "openvino": ("dense", "embedding", "model"),
    "fbgemm": ("embedding", "bag"),
    "litert": ("dense", "embedding", "bag", "model"),
    "jax": ("dense", "embedding", "bag", "model"),
    "untuned": ("dense", "embedding", "bag", "model"),
}
RAGGED = ("bag", "333x17x31x0..9:sum")
# What LiteRT has no operator for.
LEFT_OUT = {("litert", f"3x17x31:{name}") for name in ("selu", "softplus", "softsign", "mish")}
MODULES = {"fbgemm-gpu-cpu": "fbgemm_gpu", "ai-edge-litert": "ai_edge_litert"}


def load(name: str) -> Any:
    for package in peers.PEERS[name][1].split():
        pytest.importorskip(MODULES.get(package, package))
    (peer,) = peers.load([name])
    peer.set_up(SETTINGS)
    return peer


def make(spec: tuple[str, str], layout: str = "rotated", dtype: str = "float32") -> work.Work:
    return work.make(parse(*spec), layout, dtype, "int64", 1 << 12)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *(
            (name, spec)
            for name, kinds in KINDS.items()
            for spec in CASES
            if spec[0] in kinds and (name, spec[1]) not in LEFT_OUT
        ),
        *((name, RAGGED) for name in ("fbgemm", "untuned")),
    ],
)
def test_peer_agrees_with_float64(name: str, spec: tuple[str, str]) -> None:
    peer, given = load(name), make(spec)
    assert set(peer.SIDES) == set(KINDS[name])
    sides = peer.SIDES[spec[0]](given)
    assert len({side.variant for side in sides}) == len(sides)
    reference.check(sides, given)


@pytest.mark.parametrize(
    ("name", "dtype"), [("torch", "bfloat16"), ("torch", "float16"), ("openvino", "bfloat16")]
)
def test_peers_of_halves_agree_with_float64(name: str, dtype: str) -> None:
    peer, given = load(name), make(("dense", "3x64x70:relu"), dtype=dtype)
    assert given.x.dtype == given.kernels[0].dtype == dtype
    reference.check(peer.SIDES["dense"](given), given)


def test_torch_compile_compiles_and_agrees() -> None:
    counters = pytest.importorskip("torch._dynamo.utils").counters
    peer, given = load("torch.compile"), make(("dense", "3x17x31:gelu"), "repeated")
    counters.clear()
    sides = peer.SIDES["dense"](given)
    assert [side.variant for side in sides] == ["", "frozen"]
    assert counters["stats"]["unique_graphs"] == 2
    reference.check(sides, given)


def test_torch_compile_freezes_a_model_beside_the_one_that_is_not_frozen() -> None:
    counters = pytest.importorskip("torch._dynamo.utils").counters
    peer, given = load("torch.compile"), make(("model", "text@3"))
    counters.clear()
    reference.check(peer.SIDES["model"](given), given)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("spec", [("dense", "3x17x1:gelu"), ("model", "seed@3")])
def test_zentorch_agrees_and_leaves_torch_compile_and_the_weights_alone(
    spec: tuple[str, str],
) -> None:
    peer, given = load("zentorch"), make(spec, "repeated")
    inductor = pytest.importorskip("torch._inductor.config")
    passes = inductor.joint_custom_post_pass
    kernels = given.kernels if isinstance(given, work.DenseWork) else [*given.weights.values()]
    before = [kernel.copy() for kernel in kernels]
    sides = peer.SIDES[spec[0]](given)
    assert [side.variant for side in sides] == ["", "frozen"]
    reference.check(sides, given)
    assert inductor.joint_custom_post_pass is passes
    assert all(map(np.array_equal, kernels, before))


def test_zentorch_says_what_it_fails_at(monkeypatch: pytest.MonkeyPatch) -> None:
    peer, given = load("zentorch"), make(("dense", "3x17x31"), "repeated")

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel for it\nand more")

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(peers.Unsupported, match=r"at dense 3x17x31:linear: no kernel for it$"):
        peer.SIDES["dense"](given)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert", "jax"])
def test_dlrm_and_two_tower_are_the_twins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import models

    monkeypatch.setattr(models, "TOWER_ROWS", 50)
    monkeypatch.setattr(models, "DLRM_ROWS", 50)
    peer = load(name)
    for spec in ("two tower@3", "dlrm@3"):
        work.release()
        given = make(("model", spec))
        reference.check(peer.SIDES["model"](given), given)
    work.release()


@pytest.mark.parametrize(
    ("name", "spec", "dtype", "reason"),
    [
        ("onnxruntime", ("dense", "3x17x31:relu"), "float64", "float32 only"),
        ("openvino", ("dense", "3x17x31:relu"), "float64", "float32 only"),
        ("openvino", ("dense", "3x17x31:relu"), "float16", "float32 only, not float16"),
        ("fbgemm", ("embedding", "31x17x333"), "float64", "float32 only"),
        ("litert", ("dense", "3x17x31:relu"), "float64", "float32 only"),
        ("litert", ("dense", "3x17x31:mish"), "float32", "no operator"),
        ("onnxruntime", RAGGED, "float32", "ragged"),
        ("litert", RAGGED, "float32", "ragged"),
        ("jax", RAGGED, "float32", "ragged"),
        ("fbgemm", ("bag", "333x17x31x3:max"), "float32", "not of max"),
        ("torch", ("bag", "333x17x31x0..9:min"), "float32", "minimum"),
    ],
)
def test_peer_says_why_it_leaves_a_case_out(
    name: str, spec: tuple[str, str], dtype: str, reason: str
) -> None:
    with pytest.raises(peers.Unsupported, match=reason):
        load(name).SIDES[spec[0]](make(spec, dtype=dtype))


def test_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PEERS, "absent", ("no_such_package.peer", "no-such-package"))
    with pytest.raises(peers.PeerError, match="pip install no-such-package"):
        peers.load(["absent"])


def test_all_stands_for_the_peers_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {"here": ("bench.peers.untuned", "tvmlayers")}
    absent = {"absent": ("no_such_package.peer", "no-such-package")}
    monkeypatch.setattr(peers, "PEERS", here | absent)
    assert [peer.NAME for peer in peers.load(["all"])] == ["untuned"]
    assert "pip install no-such-package" in capsys.readouterr().err


def test_all_stands_for_every_peer_but_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_import", lambda name: SimpleNamespace(NAME=name))
    loaded = [peer.NAME for peer in peers.load(["all"])]
    assert [*loaded, "untuned"] == list(peers.PEERS)
    assert [peer.NAME for peer in peers.load(["untuned"])] == ["untuned"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each of our compilations in a test."""
    found: list[dict[str, Any]] = []
    compile_here = ours._compiler

    def compiler(model: Any, **options: Any) -> Any:
        found.append(options)
        return compile_here(model, **options)

    monkeypatch.setattr(ours, "_compiler", compiler)
    return found


@pytest.mark.parametrize("records", [True, False])
def test_records_are_ignored_only_when_asked(records: bool, asked: list[dict[str, Any]]) -> None:
    settings = replace(SETTINGS, records=records)
    ours.prepare(make(("embedding", "31x17x3"), "repeated"), settings)
    assert asked[0].get("records", True) is records


def test_untuned_peer_ignores_the_records_of_the_settings(asked: list[dict[str, Any]]) -> None:
    assert SETTINGS.records
    load("untuned").SIDES["embedding"](make(("embedding", "31x17x3"), "repeated"))
    assert [options["records"] for options in asked] == [False]


def test_row_compares_with_each_peer_and_the_best() -> None:
    names = ["torch", "onnxruntime", "openvino"]
    for name in names:
        load(name)
    options = ["--rounds", "1", "--no-limits", "--peers", ",".join(names)]
    arguments = parser().parse_args(["dense", "--shapes", "3x17x31:tanh", *options])
    arguments.threads = 1
    session = Session(arguments)
    assert session.run(chosen(arguments)) == 0
    (row,) = session.rows
    assert list(row.peers) == names
    assert row.ratio == min(times.ratio for times in row.peers.values())
    assert row.best_peer is not None
    assert row.peers[row.best_peer].ratio == row.ratio
    assert all(times.version and times.variant for times in row.peers.values())
