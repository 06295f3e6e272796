"""Merging keeps the newest, pruning drops what was asked, diff names what differs."""

from __future__ import annotations

from pathlib import Path

import made_records as made
import pytest

from tvmlayers.records import (
    Record,
    RecordError,
    RecordWarning,
    Summary,
    add,
    diff,
    installed_tvm,
    merge,
    parse,
    prune,
    sources,
)
from tvmlayers.records.folders import file_of

OLD = made.dense(date="2026-11-20", microseconds=90.0)
NEW = made.dense(date="2026-11-21", microseconds=110.0)
FAST = made.dense(date="2026-11-21", microseconds=100.0)


def held(folder: Path) -> list[Record]:
    """All records of a folder."""
    return [record for path in sources.find(folder) for record in parse.read(path).records]


def write(folder: Path, *records: Record, kept: tuple[str, ...] = ()) -> Path:
    """A file with these records, doubles and all."""
    path = file_of(folder, made.TARGET, "dense")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(parse.render(made.TARGET, "dense", records, kept))
    return path


@pytest.mark.parametrize("records", [(OLD, NEW, FAST), (FAST, NEW, OLD), (NEW, FAST, OLD)])
def test_merge_keeps_the_newest_and_of_one_day_the_fastest(
    records: tuple[Record, ...], tmp_path: Path
) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    for folder, record in zip(folders, records, strict=True):
        add([record], folder)
    merge(folders, tmp_path / "into")
    assert held(tmp_path / "into") == [FAST]


def test_merge_says_what_it_did_and_does_nothing_twice(tmp_path: Path) -> None:
    into = tmp_path / "into"
    add([OLD, made.dense(m=1, date="2027-01-01")], into)
    add([NEW, made.dense(m=1), made.dense(m=2), made.softmax()], tmp_path / "a")
    files = (file_of(into, made.TARGET, "dense"), file_of(into, made.TARGET, "softmax"))
    assert merge([tmp_path / "a"], into) == Summary(files, added=2, replaced=1, unchanged=1)
    assert merge([tmp_path / "a"], into) == Summary((), unchanged=4)


def test_merge_takes_single_files_wherever_they_lie(tmp_path: Path) -> None:
    (path,) = add([NEW], tmp_path / "a")
    sent = path.rename(tmp_path / "from a friend.json")
    merge([sent], tmp_path / "into")
    assert held(tmp_path / "into") == [NEW]
    assert file_of(tmp_path / "into", made.TARGET, "dense").exists()


def test_merge_skips_what_it_cannot_read_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "a", NEW, kept=("17",))
    with pytest.warns(RecordWarning, match="line 5"):
        found = merge([tmp_path / "a"], tmp_path / "into")
    assert (found.added, found.skipped) == (1, 1)


@pytest.mark.parametrize("call", [lambda path: merge([path], path), prune, lambda p: diff(p, p)])
def test_source_that_is_not_there_is_named(call: object, tmp_path: Path) -> None:
    assert callable(call)
    with pytest.raises(RecordError, match="absent is no file or folder"):
        call(tmp_path / "absent")


def test_prune_alone_drops_duplicates_only(tmp_path: Path) -> None:
    other = made.dense(tvm="0.26.0", microseconds=999.0)
    write(tmp_path, OLD, NEW, NEW, FAST, other)
    dropped = prune(tmp_path)
    assert [each.record for each in dropped] == [OLD, NEW, NEW]
    assert held(tmp_path) == [other, FAST]
    assert prune(tmp_path) == ()


@pytest.mark.parametrize(
    ("rule", "goes", "reason"),
    [
        ({"tvm": installed_tvm()}, made.dense(m=2, tvm="0.26.0"), "made with TVM 0.26.0"),
        ({"slower": True}, made.dense(m=2, microseconds=140.1), "no faster than untuned: 140.1"),
        ({"before": "2026-11-22"}, made.dense(m=2, date="2026-11-21"), "of 2026-11-21, before"),
    ],
)
def test_prune_drops_what_the_rule_names_and_says_why(
    rule: dict[str, object], goes: Record, reason: str, tmp_path: Path
) -> None:
    add([made.dense(), goes], tmp_path)
    for dry_run in (True, False):
        (dropped,) = prune(tmp_path, dry_run=dry_run, **rule)
        assert dropped.record == goes
        assert dropped.file == file_of(tmp_path, made.TARGET, "dense")
        assert reason in dropped.reason
        assert (goes in held(tmp_path)) is dry_run
    assert held(tmp_path) == [made.dense()]


def test_prune_keeps_an_older_record_when_the_newer_double_goes(tmp_path: Path) -> None:
    slow = made.dense(microseconds=999.0)
    write(tmp_path, OLD, slow)
    assert [each.record for each in prune(tmp_path, slower=True)] == [slow]
    assert held(tmp_path) == [OLD]


def test_prune_looks_only_at_the_target_and_kind_asked_for(tmp_path: Path) -> None:
    slow = {"microseconds": 999.0}
    other = made.dense(target="sapphirerapids", **slow)
    add([made.dense(**slow), made.softmax(**slow), other], tmp_path)
    (dropped,) = prune(tmp_path, slower=True, kind="softmax")
    assert dropped.record == made.softmax(**slow)
    prune(tmp_path, slower=True, target="sapphirerapids")
    assert held(tmp_path) == [made.dense(**slow)]


def test_prune_leaves_what_it_cannot_read(tmp_path: Path) -> None:
    path = write(tmp_path, OLD, NEW, kept=("17",))
    with pytest.warns(RecordWarning, match="line 6"):
        assert len(prune(tmp_path)) == 1
    assert parse.read(path).kept == ["17"]


def test_prune_refuses_a_date_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="before is an ISO date"):
        prune(tmp_path, before="yesterday")


def test_diff_names_added_removed_and_changed(tmp_path: Path) -> None:
    before, after = made.dense(), made.dense(microseconds=61.7, decisions={"tile_rows": 8})
    timed = made.dense(m=5, microseconds=246.8)
    add([before, made.dense(m=1), made.dense(m=5), made.softmax()], tmp_path / "a")
    add([after, made.dense(m=2), timed, made.softmax()], tmp_path / "b")
    found = diff(tmp_path / "a", tmp_path / "b")
    assert found.added == (made.dense(m=2),)
    assert found.removed == (made.dense(m=1),)
    assert found.same == 1
    again, change = found.changed
    assert (again.before, again.after, again.ratio) == (made.dense(m=5), timed, 2.0)
    assert again.decisions == {}
    assert change.ratio == 0.5
    assert change.decisions == {
        "tile_rows": (6, 8),
        "split": ("rows", None),
        "share": (0.5, None),
        "fused": (True, None),
    }


def test_diff_of_a_record_tuned_again_with_another_tvm_is_a_change(tmp_path: Path) -> None:
    old = made.dense(tvm="0.26.0", date="2026-01-01")
    add([old], tmp_path / "a")
    add([old, made.dense()], tmp_path / "b")
    (change,) = diff(tmp_path / "a", tmp_path / "b").changed
    assert (change.before, change.after) == (old, made.dense())
