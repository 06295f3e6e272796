"""Files are written whole or not at all, under any name that a file can have."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import handmade
import pytest

import tvmlayers as tl
from tvmlayers.files import replacing

WAITS = """
import sys
from tvmlayers.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("open", flush=True)
    sys.stdin.read()
"""


def save_artefact(path: Path) -> None:
    handmade.save(path)


def save_model(path: Path) -> None:
    tl.Sequential([tl.Dense(64, input_dim=64)]).save(path)


def save_weights(path: Path) -> None:
    tl.Sequential([tl.Dense(64, input_dim=64)]).save_weights(path)


ways = pytest.mark.parametrize("save", [save_artefact, save_model, save_weights])


@contextmanager
def half_written(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is writing `path`."""
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(Path(tl.__file__).parents[1])}
    command = [sys.executable, "-c", WAITS, str(path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        yield writer


@ways
@pytest.mark.parametrize(
    "name", ["m" * 255, "ä" * 127, "a b\n[red]", b"\xff\xfe".decode("utf-8", "surrogateescape")]
)
def test_any_name_of_a_file_will_do(
    save: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    for _ in range(2):  # a new file, and one in the place of another
        save(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@ways
def test_a_link_stays_and_what_it_leads_to_is_replaced(
    save: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real", tmp_path / "link"
    link.symlink_to("there/real")
    for _ in range(2):  # the link leads to nothing at first
        save(link)
        assert os.readlink(link) == "there/real"
        assert real.is_file()
        assert not real.is_symlink()
    assert os.listdir(tmp_path / "there") == ["real"]


@ways
@pytest.mark.parametrize("name", ["a\0b", "a\ud800", "m" * 256, "none/m", ".", "file/m"])
def test_a_name_that_no_file_can_have_is_an_error_of_ours(
    save: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(tl.SaveError, match="cannot be written"):
        save(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


@ways
def test_a_full_disk_leaves_the_old_file_and_no_other(
    save: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(tl.SaveError, match="cannot be written") as caught:
            save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m"]


def test_permissions_stay_and_a_new_file_has_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "m"
    mask = os.umask(0o027)
    try:
        save_model(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    save_model(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_what_a_killed_process_left_goes_with_the_next_save(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"old")
    with half_written(path) as writer:
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    save_model(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["m", "other"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with half_written(path) as writer:
        save_model(tmp_path / "other")
        assert len(os.listdir(tmp_path)) == 2
        writer.communicate("")
        assert writer.returncode == 0
    assert path.read_bytes() == b"half"
    assert sorted(os.listdir(tmp_path)) == ["m", "other"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(bytes(1 // 0))
    assert os.listdir(tmp_path) == []


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(tl.SaveError, match="no regular file"):
        save_model(tmp_path / "pipe")
    assert os.listdir(tmp_path) == ["pipe"]
