"""The command line says what it did, in words or JSON, and fails in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tvmlayers as tl
from tvmlayers import cli, targets
from tvmlayers.artifact import file as artifact

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tl.Sequential(
        [tl.Dense(8, activation="relu", input_dim=5), tl.Dense(3, activation="softmax")]
    )
    path = tmp_path_factory.mktemp("cli") / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def artefact(saved_model: Path) -> Path:
    path = saved_model.with_name("model.tvml")
    assert cli.main(["compile", str(saved_model), "-o", str(path)]) == 0
    return path


def fails(capsys: Output, *argv: str) -> str:
    """The one line on stderr of a command that must end with status 2."""
    capsys.readouterr()
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("tvmlayers: ")
    return line


def test_targets_lists_every_row_and_marks_one_native(capsys: Output) -> None:
    assert cli.main(["targets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [*targets.NAMES[1:], *targets.GPU_NAMES[1:]]
    assert [row["name"] for row in rows if row["native"]] == [targets.native().name]
    assert all(row["runs_here"] for row in rows if row["native"])


@pytest.mark.parametrize("name", ["x86-64-v3", "neoverse-n1", "pentium"])
def test_targets_marks_the_row_that_the_variable_names_or_says_why_not(
    name: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(targets.VARIABLE, name)
    assert cli.main(["targets", "--json"]) == 0
    captured = capsys.readouterr()
    marked = [row["name"] for row in json.loads(captured.out) if row["native"]]
    if name == "x86-64-v3":
        assert (marked, captured.err) == ([name], "")
    else:
        assert not marked
        assert targets.VARIABLE in captured.err


def test_targets_prints_a_table_with_every_name(capsys: Output) -> None:
    assert cli.main(["targets"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*targets.NAMES[1:], *targets.GPU_NAMES[1:]))


def test_compiled_artefact_computes_what_the_model_computes(
    saved_model: Path, artefact: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    expected = tl.compile(tl.load_model(saved_model))(x)
    np.testing.assert_array_equal(tl.load(artefact)(x), expected)


def test_compile_takes_a_target_and_threads_and_says_so_in_json(
    saved_model: Path, tmp_path: Path, capsys: Output
) -> None:
    path = tmp_path / "v3.tvml"
    options = ["-o", str(path), "--target", "x86-64-v3", "--threads", "1", "--json"]
    assert cli.main(["compile", str(saved_model), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["target"] == "x86-64-v3"
    assert said["bytes"] == path.stat().st_size
    assert artifact.read_manifest(path)["target"]["name"] == "x86-64-v3"


def test_compile_builds_a_sequential_for_another_input_shape(tmp_path: Path) -> None:
    tl.Sequential([tl.Embedding(10, 4)]).save(tmp_path / "any.safetensors")
    path = tmp_path / "six.tvml"
    argv = ["compile", str(tmp_path / "any.safetensors"), "-o", str(path), "--input-shape", "6"]
    assert cli.main(argv) == 0
    assert artifact.read_manifest(path)["entries"][0]["inputs"][0]["shape"] == ["n", 6]


def test_input_shape_of_a_functional_model_is_refused(tmp_path: Path, capsys: Output) -> None:
    x = tl.Input(shape=(4,))
    path = tmp_path / "model.safetensors"
    tl.Model(x, tl.Dense(2)(x)).save(path)
    argv = ["compile", str(path), "-o", str(tmp_path / "x.tvml"), "--input-shape", "4"]
    assert "--input-shape" in fails(capsys, *argv)


@pytest.mark.parametrize("file", ["saved_model", "artefact"])
def test_verify_passes_for_a_model_and_for_an_artefact(
    file: str, request: pytest.FixtureRequest, capsys: Output
) -> None:
    pytest.importorskip("torch")
    path = request.getfixturevalue(file)
    assert cli.main(["verify", str(path)]) == 0
    capsys.readouterr()
    assert cli.main(["verify", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_inspect_prints_layers_target_kernels_and_hashes(artefact: Path, capsys: Output) -> None:
    assert cli.main(["inspect", str(artefact)]) == 0
    printed = capsys.readouterr().out
    for word in (
        "dense_1",
        "units=8",
        "float32",
        targets.native().name,
        "runs here",
        "analytic",
        "sha256",
    ):
        assert word in printed


def test_inspect_json_is_the_manifest(artefact: Path, capsys: Output) -> None:
    capsys.readouterr()
    assert cli.main(["inspect", str(artefact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == artifact.read_manifest(artefact)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_missing_file_fails_in_one_line_that_names_it(
    command: str, tmp_path: Path, capsys: Output
) -> None:
    assert "absent.tvml" in fails(capsys, command, str(tmp_path / "absent.tvml"))


def test_foreign_file_fails_in_one_line(tmp_path: Path, capsys: Output) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a model\n")
    assert "notes.txt" in fails(capsys, "inspect", str(path))
    assert "notes.txt" in fails(capsys, "compile", str(path), "-o", str(tmp_path / "x.tvml"))
    assert not (tmp_path / "x.tvml").exists()


def test_unknown_target_names_the_nearest(saved_model: Path, capsys: Output) -> None:
    argv = ["compile", str(saved_model), "-o", "x.tvml", "--target", "saphirerapids"]
    assert "'sapphirerapids'" in fails(capsys, *argv)


def test_missing_output_folder_is_refused_before_compiling(capsys: Output) -> None:
    assert "absent" in fails(capsys, "compile", "model.safetensors", "-o", "absent/x.tvml")


@pytest.mark.parametrize("option", [["--threads", "0"], ["--input-shape", "3xa"]])
def test_bad_numbers_are_refused_before_any_work(option: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["compile", "model.safetensors", "-o", "x.tvml", *option])
    assert stop.value.code == 2
    assert "expected a whole number" in capsys.readouterr().err


def test_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "tvmlayers", "--version"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == f"tvmlayers {tl.__version__}\n"
