"""The manifest of an artefact: what each field may be, checked once, when it is read or written.

Structs say which fields there are, and their `check` what they must be to one another. What passes
is a plain mapping again, which the rest of the library reads without looking twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from tvmlayers.artifact import model_manifest, step_manifest
from tvmlayers.artifact.fields import Scalar, Wrong, nbytes_of_shape
from tvmlayers.errors import ArtifactError

FORMAT, FORMAT_VERSION = "tvmlayers", 2
STEP_FORMAT = "tvmlayers.exported_step"
_KINDS = {
    FORMAT: ("a compiled model, which tvmlayers.load reads", model_manifest),
    STEP_FORMAT: ("an exported training step, which tvmlayers.load_step reads", step_manifest),
}


class Head(Struct):
    """What every version of the format begins with."""

    format: Scalar = None
    format_version: Scalar = None


def decode(text: bytes, path: object, wanted: str | None = FORMAT) -> dict[str, Any]:
    """The manifest that `text` is; ArtifactError that names the field where it is none.

    path: of the artefact, for errors; wanted: its format, None for any.
    """
    try:
        head = msgspec.json.decode(text, type=Head)
        kind = str(head.format)
        if kind not in _KINDS:
            raise ArtifactError(f"{path} is no artefact of tvmlayers: its manifest says otherwise")
        said, fields = _KINDS[kind]
        if wanted not in (None, kind):
            raise ArtifactError(f"{path} is {said}")
        if head.format_version != FORMAT_VERSION:
            raise _other_version(head.format_version, path)
        found = msgspec.json.decode(text, type=fields.Manifest)
        fields.check(found)
    except (msgspec.MsgspecError, RecursionError, Wrong) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ArtifactError(
            f"the manifest of {path} is damaged, or was not written by tvmlayers: {reason}"
        ) from error
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain


def nbytes_of(weight: Mapping[str, Any]) -> int:
    """The bytes of one of the manifest's weights."""
    return nbytes_of_shape(weight["shape"], weight["dtype"])


def _other_version(version: object, path: object) -> ArtifactError:
    is_older = isinstance(version, int) and version < FORMAT_VERSION
    advice = (
        "compile the model again with this one, or load it with the tvmlayers that wrote it"
        if is_older
        else "upgrade tvmlayers, or compile the model again with this one"
    )
    return ArtifactError(
        f"{path} has format version {version!r}, this tvmlayers reads {FORMAT_VERSION}; {advice}"
    )
