"""The entry points of compiled code on this machine, and its shared library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvmlayers import targets
from tvmlayers.codegen.link import shared_library
from tvmlayers.codegen.modules import Library
from tvmlayers.errors import TargetError
from tvmlayers.runtime.threads import load_library
from tvmlayers.targets import Target

Functions = Callable[[str], Any]


def running(
    library: Library, target: Target, what: str, verb: str
) -> tuple[Functions, Callable[[], bytes]]:
    """(what gives an entry point by its name, what links the shared library).

    what: the thing that was compiled, for errors; verb: how it is written to a file. Where this
    machine cannot run the code, entry points raise TargetError.
    """
    why_not = targets.obstacle(target.triple, target.cpu_flags)

    def linked() -> bytes:
        return shared_library(library, target.triple)

    def refusing(_: str) -> Any:
        def refuse(*_: object) -> int:
            raise TargetError(
                f"this {what} was compiled for {target.name}: it {why_not}; "
                f"{verb} it and load it on such a machine"
            )

        return refuse

    if why_not:
        return refusing, linked
    if targets.can_make_code():
        return library.__getitem__, linked
    return load_library(linked()).get_function, linked
