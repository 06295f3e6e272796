"""What `import tvmlayers` brings in, and what it leaves for later."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tvmlayers as tl

HEAVY = ("torch", "tvm", "tvm_ffi", "rich", "tvmlayers.codegen", "tvmlayers.runtime.compiled")


def test_import_brings_neither_torch_nor_the_compiler() -> None:
    code = f"import sys, tvmlayers; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dir_lists_every_public_name() -> None:
    assert set(tl.__all__) <= set(dir(tl))


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tl.nothing
