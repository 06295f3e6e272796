"""What a machine, a container or a sandbox may lack or refuse."""

from __future__ import annotations

import errno
import mmap
import os
from typing import NoReturn

import pytest

from tvmlayers.arena import HUGE_PAGE, address, allocate_arena


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
