"""bench/on_gpu.sh: its steps, and that every command in it is one that its program takes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import parser

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "on_gpu.sh"


def on_gpu(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    given = {**kept, "PYTHON": sys.executable, "VENV": "/nonexistent", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["sh", str(SCRIPT), *words],
        env={**given, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(*words: str, **variables: str) -> list[list[str]]:
    """The command lines of a dry run."""
    done = on_gpu(*words, DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line)[1:] for line in done.stdout.splitlines() if line.startswith("+ ")]


def after(program: str, command: list[str]) -> list[str]:
    return command[command.index(program) + 1 :]


def test_all_steps_come_in_order_and_without_a_limit() -> None:
    made = [" ".join(command) for command in commands()]
    marks = [
        "-m venv",
        "outer.pth",
        "pip install",
        "-m gpu",
        "-n 4",
        "tune_cuda.py",
        *["bench cuda"] * 5,
    ]
    assert len(made) == len(marks)
    assert all(mark in line for mark, line in zip(marks, made, strict=True))
    assert "timeout --signal=INT --kill-after=30 0 " in made[-1]
    assert "--budget" not in made[-1]


@pytest.mark.parametrize("part", ["", "dense:float16", "bag"])
def test_every_benchmark_is_one_that_bench_takes(part: str) -> None:
    made = commands("bench", *[part] * bool(part), OUT="/results")
    parsed = [parser().parse_args(after("bench", command)) for command in made]
    wanted = ["dense-float32", "dense-float16", "dense-bfloat16", "embedding", "bag"]
    names = [part.replace(":", "-")] if part else wanted
    assert [each.json for each in parsed] == [Path(f"/results/{name}.json") for name in names]
    assert all(each.resume and each.budget == 360 for each in parsed)


def test_tuning_keeps_records_and_journal_among_the_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "schedules"))
    import common

    (command,) = commands("tune", "embedding", OUT="/results", EFFORT="thorough")
    words = after("schedules/tune_cuda.py", command)
    parsed = common._parser("", ("cuda",)).parse_args(words)
    assert (parsed.kinds, parsed.effort) == (("embedding",), "thorough")
    assert (parsed.records, parsed.work_dir) == (Path("/results/records"), Path("/results/tuning"))


def test_files_of_the_parity_tests_are_there() -> None:
    (command,) = commands("parity")
    files = [word for word in command if word.endswith(".py")]
    assert len(files) == 10
    assert all((ROOT / file).exists() for file in files)
    (one,) = commands("parity", "dense", JOBS="2")
    assert one[-3:] == ["-n", "2", "tests/parity/test_parity_dense.py"]


def test_setup_takes_wheels_from_a_folder() -> None:
    _, _, install = commands("setup", WHEELS="/wheels")
    assert after("install", install)[:3] == ["--no-index", "--find-links", "/wheels"]
    _, _, install = commands("setup")
    assert "--no-index" not in install


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["tunes"], {}, "expected a step of all setup test parity tune bench, got tunes"),
        (["tune", "gru"], {}, "expected a kind of dense embedding bag softmax, got gru"),
        (["parity", "amx"], {}, "expected a file of embedding"),
        (["bench", "dense:int8"], {}, "expected a dtype of float32"),
        (["bench", "bag:float16"], {}, "only dense layers are timed in other dtypes"),
        (["test", "all"], {}, "test has no parts"),
        (["bench", "bag", "dense"], {}, "a step and one part of it, got bench bag dense"),
        (["bench"], {"LIMIT": "soon"}, "LIMIT is a whole number"),
        (["bench"], {"EARLIER": "/nowhere/at/all"}, "there is none at /nowhere/at/all"),
    ],
)
def test_bad_arguments_are_answered(
    words: list[str], variables: dict[str, str], message: str
) -> None:
    done = on_gpu(*words, DRY_RUN="1", **variables)
    assert done.returncode == 2
    assert message in done.stderr


def test_help_names_steps_and_variables() -> None:
    done = on_gpu("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("setup", "parity", "WHEELS", "OUT", "LIMIT"))
    assert "set -eu" not in done.stdout


def test_a_run_that_reaches_the_limit_can_go_on(tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 3000\n")
    slow.chmod(0o755)
    earlier = tmp_path / "earlier" / "tuning"
    earlier.mkdir(parents=True)
    (earlier / "journal").write_text("trials")
    out = tmp_path / "out"
    done = on_gpu("tune", LIMIT="1", PYTHON=str(slow), OUT=str(out), EARLIER=str(earlier.parent))
    assert done.returncode == 3
    assert "the same call again goes on" in done.stderr
    assert (out / "tuning" / "journal").read_text() == "trials"


def test_parts_after_one_that_failed_are_measured_all_the_same(tmp_path: Path) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o755)
    done = on_gpu("bench", PYTHON=str(failing), OUT=str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stdout.count("+ timeout") == 5


def test_without_a_gpu_the_tests_of_it_fail(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = on_gpu("test", OUT=str(tmp_path))
    assert done.returncode == 1
    assert "no GPU can be found" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
