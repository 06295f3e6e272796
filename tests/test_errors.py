from __future__ import annotations

import pytest

from tvmlayers import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("ShapeError", ValueError),
        ("DTypeError", TypeError),
        ("DeviceError", ValueError),
        ("IndexOutOfRangeError", IndexError),
        ("OffsetsError", ValueError),
        ("WeightsError", ValueError),
        ("UnknownNameError", ValueError),
        ("TargetError", ValueError),
        ("ArtifactError", ValueError),
        ("MissingDependencyError", ImportError),
        ("ConfigError", ValueError),
        ("RecordError", ValueError),
        ("TuneError", RuntimeError),
        ("HostMemoryError", MemoryError),
        ("SaveError", OSError),
    ],
)
def test_every_error_is_ours_and_the_builtin(error: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, error), errors.TvmLayersError)
    assert issubclass(getattr(errors, error), builtin)


def test_unknown_name_names_the_nearest_and_lists_all() -> None:
    error = errors.unknown_name("target", "x86-64-v5", ["native", "x86-64-v4", "x86-64-v3"])
    assert str(error) == (
        "unknown target 'x86-64-v5'. Did you mean 'x86-64-v4'? Known: native, x86-64-v3, x86-64-v4"
    )


def test_a_name_unlike_all_others_gets_no_guess() -> None:
    assert "Did you mean" not in str(errors.unknown_name("mode", 7, ["sum", "mean"]))
