"""What a machine, a container or a sandbox may lack or refuse."""

from __future__ import annotations

import errno
import mmap
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from handmade import run_python

import tvmlayers as tl
from tvmlayers import records, targets, userdata
from tvmlayers.artifact.arena import HUGE_PAGE, address, allocate_arena
from tvmlayers.runtime import ffi
from tvmlayers.tune import journal

HOMES = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "TVMLAYERS_RECORDS", "TVMLAYERS_TUNING")


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id that the system has no name for, as `docker run --user 4242` has."""
    for name in HOMES:
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_an_arena_does_without_huge_pages_where_they_are_refused(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: int) -> NoReturn:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(mmap, "mmap", Refusing)
    arena = allocate_arena(9 << 20)
    assert arena.shape == (9 << 20,)
    assert address(arena) % HUGE_PAGE == 0


HOMELESS = f"""
import os, pwd

def unknown(uid):
    raise KeyError(uid)

pwd.getpwuid = unknown
for name in {HOMES}:
    os.environ.pop(name, None)
before = dict(os.environ)
import numpy as np
import tvmlayers as tl
x = np.ones((2, 6), np.float32)
layer = tl.Dense(4, input_dim=6)
shape = layer(x).shape
from tvmlayers import cli, tune
assert cli.main(["records", "list", "--target", "znver5", "--kind", "softmax", "--json"]) == 0
try:
    tune(layer, trials=1)
except tl.TvmLayersError as error:
    print(error)
print(shape, {{name for name in os.environ if os.environ[name] != before.get(name)}})
"""


def test_a_user_without_a_home_calls_compiles_and_lists_records() -> None:
    *_, told, last = run_python(HOMELESS).splitlines()
    assert "this user has no home folder for trials: set HOME or TVMLAYERS_TUNING" in told
    assert last.startswith("(2, 4)")
    assert "XDG_CACHE_HOME" not in last


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_has_no_records_and_cannot_write_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert records.find_user_folder() is None
    with pytest.raises(tl.RecordError, match="no home folder for records: set HOME or TVMLAYERS_"):
        records.user_folder()
    with pytest.raises(tl.TuneError, match="no home folder for trials"):
        journal.default_folder()
    monkeypatch.setenv("TVMLAYERS_RECORDS", "~/records")
    assert records.find_user_folder() is None
    monkeypatch.setenv("TVMLAYERS_RECORDS", "/somewhere/records")
    assert records.user_folder() == Path("/somewhere/records")


def test_a_home_that_was_not_expanded_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TVMLAYERS_RECORDS")
    given = Path("~/.local/share/tvmlayers")  # what older releases of platformdirs give
    monkeypatch.setattr(userdata, "user_data_path", lambda _: given)
    assert userdata.user_folder("TVMLAYERS_RECORDS", "records") is None


def test_records_in_a_home_that_is_out_of_reach_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("TVMLAYERS_RECORDS", str(tmp_path / "theirs"))
    stat = Path.stat

    def refuse(path: Path, **named: bool) -> os.stat_result:
        if "theirs" in path.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **named)

    monkeypatch.setattr(Path, "stat", refuse)
    records.load("znver5", "dense")
    assert not recwarn.list


NO_NEW_CODE = """
import ctypes
set_policy, refuse_new_code = 65, 1
if ctypes.CDLL(None).prctl(set_policy, refuse_new_code, 0, 0, 0):
    print("skip")
    raise SystemExit
import numpy as np
import tvmlayers as tl
from tvmlayers import targets
model = tl.Sequential([tl.Dense(5, "relu", input_dim=6), tl.Dense(4, "softmax")])
compiled = tl.compile(model)
total = compiled(np.ones((3, 6), np.float32)).sum(axis=1)
compiled.save("model.tvml")
again = tl.load("model.tvml")(np.ones((3, 6), np.float32)).sum(axis=1)
print(targets.can_make_code(), np.allclose(total, 1), np.allclose(again, 1))
"""


def test_compiling_works_where_new_code_may_not_be_made_executable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under systemd's MemoryDenyWriteExecute, which Linux 6.3 offers to every process."""
    monkeypatch.chdir(tmp_path)
    said = run_python(NO_NEW_CODE)
    if said == "skip":
        pytest.skip("this kernel cannot refuse it")
    assert said == "False True True"


def test_a_model_is_linked_where_new_code_may_not_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(targets, "can_make_code", lambda: False)
    loaded = []
    load = ffi.load_library
    monkeypatch.setattr(ffi, "load_library", lambda it: loaded.append(it) or load(it))
    compiled = tl.compile(tl.Dense(4, "softmax", input_dim=6))
    np.testing.assert_allclose(compiled(np.ones((3, 6), np.float32)).sum(axis=1), 1, rtol=1e-6)
    assert len(loaded) == 1


OPTIMIZED = """
import sys
import numpy as np
import tvmlayers as tl
layer = tl.Dense(4, "softmax", input_dim=6)
tl.compile(layer).save(sys.argv[1])
print(tl.load(sys.argv[1])(np.ones((2, 6), np.float32)).shape)
"""


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (["-OO"], {}),
        (["-X", "dev", "-W", "error"], {}),
        (["-X", "warn_default_encoding", "-W", "error"], {}),
        ([], {"TMPDIR": "/nonexistent"}),
        ([], {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ],
)
def test_compiling_works_with_options_of_python_and_odd_variables(
    options: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, *options, "-c", OPTIMIZED, str(tmp_path / "model.tvml")],
        env={**os.environ, "PYTHONPATH": str(Path(tl.__file__).parent.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("(2, 4)\n", "", 0)
