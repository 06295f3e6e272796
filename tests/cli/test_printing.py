"""Names, paths and messages are shown as the text that they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

import tvmlayers as tl
from tests.fuzz.artefacts import forge, read_members
from tvmlayers import cli, tables
from tvmlayers.artifact import file as artifact
from tvmlayers.cli.tuning_display import Lines
from tvmlayers.printing import PlainConsole, PlainTable, printable, styled
from tvmlayers.tune import State
from tvmlayers.tune.cases import parse
from tvmlayers.tune.outcome import Outcome

HOSTILE = [
    *("[/]", "[red]x[/red]", ":smile:", "a\rb"),
    *("\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\u202eabc"),
]


def shown(text: str) -> None:
    """No character of `text` does anything on a terminal."""
    assert all(char == "\n" or char.isprintable() for char in text), repr(text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact."""
    path = tmp_path_factory.mktemp("saved") / "m.tvml"
    tl.compile(tl.Dense(3, input_dim=2), threads=1, records=False).save(path)
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_inspect_shows_names_as_text(
    name: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = read_members(saved)
    manifest = json.loads(members[artifact.MANIFEST])
    entry, layer = manifest["entries"][0], manifest["model"]["layers"][0]
    for place in (manifest["model"], layer["config"], *entry["inputs"], *entry["outputs"]):
        place["name"] = name
    layer["class"] = manifest["kernels"][0]["layer"] = manifest["created"] = name
    manifest["target"]["name"] = name
    path = tmp_path / "m.tvml"
    forge(path, {**members, artifact.MANIFEST: json.dumps(manifest).encode()})
    assert cli.main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    shown(out)
    assert f"made {printable(name)} by" in out
    assert cli.main(["inspect", str(path), "--json"]) == 0
    shown(capsys.readouterr().out)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_summary_shows_names_as_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = name.replace("/", "")
    model = tl.Sequential([tl.Dense(3, input_dim=2, name=name)], name=name)
    shown(model.summary())
    shown(capsys.readouterr().out)


def test_paths_and_errors_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "[red]\x1b[31m["
    path.write_text("no artefact")
    assert cli.main(["inspect", str(path)]) == 2
    err = capsys.readouterr().err
    shown(err)
    assert r"[red]\x1b[31m[" in err
    assert cli.main(["compile", os.fspath(tmp_path / "none\x1b"), "-o", str(tmp_path / "o")]) == 2
    shown(capsys.readouterr().err)


def test_records_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "name": "dense [/] 1x2",
        "space": "[bold",
        "target": "[/red]",
        "date": "\x1b[1m",
        "decisions": {"a": "[/]"},
        "threads": 1,
        "trials": 2,
        "usable": False,
        "tvm": "[/]",
        "microseconds": 1.0,
        "untuned_microseconds": 2.0,
        "modelled": "[x]",
    }
    console = PlainConsole(width=200)
    console.print(tables.records_table("[/] title", [row]))
    out = capsys.readouterr().out
    shown(out)
    for word in (
        "dense [/] 1x2",
        "[bold: a=[/]",
        "[/red], modelled by [x]",
        "TVM [/]",
        "[/] title",
    ):
        assert word in out


@pytest.mark.parametrize("name", HOSTILE)
def test_kernels_are_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    regimes = [
        {"up_to": 1, "source": name, "decisions": {"tile": name, "common": name}},
        {"up_to": None, "source": "analytic", "decisions": {"tile": "1x4", "common": name}},
    ]
    kernel = {"layer": name, "kind": name, "batch": name, "trait": name, "regimes": regimes}
    console = PlainConsole(width=200)
    for block in tables.kernel_blocks({"kernels": [kernel]}):
        console.print(block)
    shown(capsys.readouterr().out)


def test_causes_of_failed_trials_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    state = State(parse("embedding", "5000x64x320"), "1/1", 1)
    lines = Lines(PlainConsole(width=200))
    lines.begin(state)
    state.add(Outcome(None, "crashed: \x1b[31m[/]"))
    lines.trial(state)
    shown(capsys.readouterr().out)


def test_styles_are_kept_where_they_are_meant() -> None:
    console = PlainConsole(width=40, force_terminal=True, color_system="standard")
    table = PlainTable("t")
    table.add_column("c")
    table.add_row(styled("[/]", "red"))
    with console.capture() as captured:
        console.print(table)
    assert "\x1b[31m[/]" in captured.get()
    assert isinstance(console, Console)
