"""Compiling sees the user's records before the shipped ones, and no broken file stops it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import made_records as made
import pytest

from tvmlayers import records
from tvmlayers.records import RecordWarning, folders, lookup, parse
from tvmlayers.records.folders import file_of

pytestmark = pytest.mark.usefixtures("user", "shipped")


def load() -> tuple[records.Record, ...]:
    return records.load(made.TARGET, "dense")


def test_no_folder_is_no_records() -> None:
    assert load() == ()


def test_folder_that_cannot_be_is_no_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(folders.VARIABLE, str(tmp_path / "file" / "below"))
    assert load() == ()


@pytest.mark.parametrize("target", ["", "a/b", ".."])
def test_target_that_names_no_folder_has_no_records(target: str) -> None:
    assert records.load(target, "dense") == ()


def test_users_record_hides_the_shipped_one_of_the_same_workload_and_space(shipped: Path) -> None:
    theirs = [made.dense(m=1), made.dense(m=2), made.dense(m=1, space="rows"), made.softmax()]
    records.add(theirs, shipped)
    mine = [made.dense(m=1, microseconds=999.0, date="2020-01-01"), made.dense(m=3)]
    records.add(mine)
    assert load() == (mine[0], theirs[2], theirs[1], mine[1])
    assert records.load(made.TARGET, "softmax") == (theirs[3],)
    assert records.load("sapphirerapids", "dense") == ()


def test_second_load_reads_no_file(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.add([made.dense()], shipped)
    records.add([made.dense(m=1)])
    first = load()
    monkeypatch.setattr(lookup, "read", lambda *_: pytest.fail("read again"))
    assert load() is first


def test_changed_file_is_read_again() -> None:
    for m in range(1, 6):
        records.add([made.dense(m=m)])
        assert len(load()) == m
    records.add([made.dense(m=5, trials=65)])  # of the same length
    assert load()[-1].trials == 65


def test_record_of_another_tvm_is_skipped_and_named_once(user: Path, shipped: Path) -> None:
    records.add([made.dense(m=1), made.dense(m=2, tvm="0.26.0"), made.dense(m=3)])
    records.add([made.dense(m=2, microseconds=130.0)], shipped)
    with pytest.warns(RecordWarning, match="line 5: dense 2x768x3072.*TVM 0.26.0") as told:
        found = load()
    assert [record.workload.batch for record in found] == [1, 2, 3]
    assert found[1].microseconds == 130.0
    (warning,) = told
    assert str(file_of(user, made.TARGET, "dense")) in str(warning.message)
    assert load() == found  # and no second warning, which would be an error here
    records.add([made.dense(m=1, trials=65)])
    load()


def test_record_tuned_again_with_this_tvm_needs_no_warning() -> None:
    records.add([made.dense(tvm="0.26.0", date="2027-01-01"), made.dense()])
    assert load() == (made.dense(),)


def test_many_skipped_records_are_one_short_warning() -> None:
    records.add([made.dense(m=m, tvm="0.26.0") for m in range(1, 101)])
    with pytest.warns(RecordWarning, match="and 97 more") as told:
        assert load() == ()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("text", "left", "reason"),
    [
        ("", 0, "not valid JSON"),
        ("<html>", 0, "not valid JSON"),
        (parse.render(made.TARGET, "dense", [made.dense(1), made.dense(2)])[:-10], 1, "line 5"),
        (parse.render("sapphirerapids", "dense", [made.dense()]), 0, "for target"),
        (parse.render(made.TARGET, "dense", [made.dense()], ["17"]), 1, "line 5"),
    ],
)
def test_damaged_or_foreign_file_warns_once_and_leaves_what_is_readable(
    user: Path, text: str, left: int, reason: str
) -> None:
    path = file_of(user, made.TARGET, "dense")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.warns(RecordWarning, match=reason) as told:
        assert len(load()) == left
    assert len(told) == 1
    assert str(path) in str(told[0].message)
    assert len(load()) == left


def test_file_that_cannot_be_opened_is_skipped_with_a_warning(user: Path) -> None:
    file_of(user, made.TARGET, "dense").mkdir(parents=True)
    with pytest.warns(RecordWarning, match="cannot be read: Is a directory"):
        assert load() == ()


def test_of_duplicates_the_newest_counts(user: Path) -> None:
    old, new = made.dense(date="2026-01-01"), made.dense()
    path = file_of(user, made.TARGET, "dense")
    path.parent.mkdir(parents=True)
    path.write_text(parse.render(made.TARGET, "dense", [new, old]))
    assert load() == (new,)


def test_warning_made_an_error_is_raised_once() -> None:
    records.add([made.dense(), made.dense(m=1, tvm="0.26.0")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RecordWarning):
            load()
        assert load() == (made.dense(),)


def test_user_folder_is_the_variable_else_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folders.VARIABLE, "~/mine")
    assert records.user_folder() == Path.home() / "mine"
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere/data")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv(folders.VARIABLE)
        else:
            monkeypatch.setenv(folders.VARIABLE, unset)
        assert records.user_folder() == Path("/somewhere/data/tvmlayers/records")


def test_shipped_folder_is_the_packages_data_else_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "PACKAGED", tmp_path / "data")
    assert records.shipped_folder() == folders.CHECKOUT
    (tmp_path / "data").mkdir()
    assert records.shipped_folder() == tmp_path / "data"


def test_wheel_takes_the_checkouts_records_to_where_the_package_looks() -> None:
    root = Path(__file__).parents[2]
    mapping = f'"{folders.CHECKOUT.relative_to(root)}" = "{folders.PACKAGED.relative_to(root)}"'
    project = (root / "pyproject.toml").read_text()
    assert f"[tool.hatch.build.targets.wheel.force-include]\n{mapping}\n" in project
    assert '"/schedules"' in project
    assert folders.CHECKOUT.is_dir()


def test_every_shipped_file_is_sound_and_lies_where_it_says() -> None:
    for path in folders.CHECKOUT.rglob("*.json"):
        found = parse.read(path, path.parent.name, path.stem)
        assert found.problems == []
        assert path.read_text() == parse.render(found.target, found.kind, found.records)


def test_import_brings_neither_tvm_nor_rich() -> None:
    code = (
        "import sys, tvmlayers.records as r; r.load('x86-64-v3', 'dense')\n"
        "print([m for m in ('tvm', 'tvm_ffi', 'torch', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"
