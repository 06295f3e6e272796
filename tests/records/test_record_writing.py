"""Adding records loses none: not to another process, a kill, a full disk or a damaged file."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_records as made
import pytest

from tvmlayers.records import Record, RecordError, RecordWarning, add, folders, parse
from tvmlayers.records.folders import file_of


def held(folder: Path, kind: str = "dense") -> list[Record]:
    """The records of a file, which must have no problem."""
    found = parse.read(file_of(folder, made.TARGET, kind), made.TARGET, kind)
    assert found.problems == []
    return found.records


def put(folder: Path, text: str) -> Path:
    path = file_of(folder, made.TARGET, "dense")
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def names(path: Path) -> set[str]:
    """The files beside `path`, without its lock."""
    return {each.name for each in path.parent.iterdir()} - {f"{path.name}.lock"}


def test_add_writes_a_file_for_each_target_and_kind(tmp_path: Path) -> None:
    other = made.dense(target="sapphirerapids")
    paths = add([made.dense(), made.softmax(), other], tmp_path)
    assert paths == [
        tmp_path / "x86-64-v3" / "dense.json",
        tmp_path / "x86-64-v3" / "softmax.json",
        tmp_path / "sapphirerapids" / "dense.json",
    ]
    assert held(tmp_path) == [made.dense()]
    assert held(tmp_path, "softmax") == [made.softmax()]


def test_add_goes_to_the_users_folder(user: Path) -> None:
    assert add([made.dense()]) == [user / "x86-64-v3" / "dense.json"]


def test_adding_nothing_makes_nothing(tmp_path: Path) -> None:
    assert add([], tmp_path / "new") == []
    assert not (tmp_path / "new").exists()


def test_add_replaces_or_leaves_the_record_of_the_same_workload_and_space(tmp_path: Path) -> None:
    first, second = made.dense(), made.dense(microseconds=100.0)
    beside = made.dense(space="rows")
    add([first, beside], tmp_path)
    add([second], tmp_path, replace=False)
    assert held(tmp_path) == [first, beside]
    add([second], tmp_path)
    assert held(tmp_path) == [second, beside]


def test_a_modelled_record_takes_no_measured_ones_place(tmp_path: Path) -> None:
    modelled, measured = made.dense(modelled="a model", microseconds=1.0), made.dense()
    add([modelled], tmp_path)
    add([measured], tmp_path)
    assert held(tmp_path) == [measured]
    add([modelled], tmp_path)
    assert held(tmp_path) == [measured]


def test_record_of_another_tvm_stays_beside_the_new_one(tmp_path: Path) -> None:
    old = made.dense(tvm="0.26.0")
    add([old], tmp_path)
    add([made.dense()], tmp_path)
    assert held(tmp_path) == [old, made.dense()]


def test_same_records_again_do_not_touch_the_file(tmp_path: Path) -> None:
    (path,) = add([made.dense()], tmp_path)
    before = path.stat()
    add([made.dense()], tmp_path)
    assert path.stat() == before


def test_new_file_has_the_usual_rights_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    (path,) = add([made.dense()], tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    path.chmod(0o640)
    add([made.dense(m=1)], tmp_path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_link_stays_a_link(tmp_path: Path) -> None:
    (path,) = add([made.dense()], tmp_path / "real")
    link = file_of(tmp_path / "linked", made.TARGET, "dense")
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    add([made.dense(m=1)], tmp_path / "linked")
    assert link.is_symlink()
    assert len(held(tmp_path / "real")) == 2


def test_what_is_no_record_of_this_version_stays_as_it_was(tmp_path: Path) -> None:
    later = '{"workload":  {"m": 1, "\udcff": 2}, "space": "gemm"}'
    path = put(tmp_path, parse.render(made.TARGET, "dense", [made.dense()], [later, "17"]))
    add([made.dense(m=1)], tmp_path)
    found = parse.read(path)
    assert found.records == [made.dense(m=1), made.dense()]
    assert found.kept == [later, "17"]
    assert not found.damaged


@pytest.mark.parametrize("text", ["", "not json"])
def test_damaged_file_is_kept_aside(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, text)
    with pytest.warns(RecordWarning, match=r"0 of its records.*dense\.json\.damaged-1"):
        add([made.dense()], tmp_path)
    assert held(tmp_path) == [made.dense()]
    assert path.with_name("dense.json.damaged-1").read_text() == text


def test_truncated_file_is_kept_aside_and_its_whole_records_stay(tmp_path: Path) -> None:
    text = parse.render(made.TARGET, "dense", [made.dense(m=m) for m in (1, 2, 3)])[:-40]
    path = put(tmp_path, text)
    path.with_name("dense.json.damaged-1").write_text("an earlier one")
    with pytest.warns(RecordWarning, match=r"2 of its records.*dense\.json\.damaged-2"):
        add([made.dense(m=9)], tmp_path)
    assert [record.workload.batch for record in held(tmp_path)] == [1, 2, 9]
    assert path.with_name("dense.json.damaged-1").read_text() == "an earlier one"
    assert path.with_name("dense.json.damaged-2").read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        parse.render(made.TARGET, "dense", []).replace('_version": 1', '_version": 2'),
        parse.render("sapphirerapids", "dense", [made.dense()]),
        '{"name": "somebody\'s package"}',
    ],
)
def test_foreign_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = put(tmp_path, text)
    with pytest.raises(RecordError, match="nothing was written"):
        add([made.dense()], tmp_path)
    assert path.read_text() == text
    assert names(path) == {"dense.json"}


def start(program: str, *argv: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, *argv]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def test_two_processes_writing_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [start(made.ADD_MANY, str(first), str(tmp_path)) for first in (1, 21)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # both are let go before either is waited for
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=600)
        assert writer.returncode == 0
    assert [record.workload.batch for record in held(tmp_path)] == list(range(1, 41))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_kill_before_the_last_step_leaves_the_old_file(step: str, tmp_path: Path) -> None:
    (path,) = add([made.dense(m=1)], tmp_path)
    with start(made.KILLED_AT, step, str(tmp_path)) as writer:
        assert writer.wait(600) == -signal.SIGKILL
    assert held(tmp_path) == [made.dense(m=1)]
    assert len(names(path)) == 2  # a temporary file stays
    add([made.dense(m=3)], tmp_path)
    assert held(tmp_path) == [made.dense(m=1), made.dense(m=3)]
    assert names(path) == {"dense.json"}


def test_kill_at_any_moment_leaves_a_whole_file_and_the_next_writer_free(tmp_path: Path) -> None:
    for attempt in range(4):
        with start(made.ADD_FOREVER, str(tmp_path)) as writer:
            assert writer.stdout is not None
            while int(writer.stdout.readline()) < 20:
                pass
            time.sleep(0.0007 * attempt)  # so that not every kill hits the same step
            writer.kill()
        assert len(held(tmp_path)) >= 20
    add([made.dense(m=999)], tmp_path)
    assert held(tmp_path)[-1].workload.batch == 999
    assert names(file_of(tmp_path, made.TARGET, "dense")) == {"dense.json"}


def test_reader_beside_a_writer_always_sees_a_whole_file(tmp_path: Path) -> None:
    add([made.dense(m=1)], tmp_path)
    with start(made.ADD_FOREVER, str(tmp_path)) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(300):
            assert held(tmp_path)
        writer.kill()


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_no_other(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = add([made.dense()], tmp_path)
    text = path.read_text()
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(RecordError) as caught:
        add([made.dense(m=1)], tmp_path)
    for word in (str(path), "No space left on device", folders.VARIABLE, "--records DIR"):
        assert word in str(caught.value)
    assert path.read_text() == text
    assert names(path) == {"dense.json"}


def test_full_disk_leaves_a_damaged_file_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "not json")
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(RecordError, match="No space left"):
        add([made.dense()], tmp_path)
    assert path.read_text() == "not json"
    assert names(path) == {"dense.json"}


def test_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"file/below.*Not a directory.*TVMLAYERS_RECORDS"):
        add([made.dense()], tmp_path / "file" / "below")


def test_read_only_folder_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RecordError, match=r"x86-64-v3/dense\.json.*Permission denied.*--records"):
        add([made.dense()], tmp_path)
    assert list((tmp_path / made.TARGET).iterdir()) == []
