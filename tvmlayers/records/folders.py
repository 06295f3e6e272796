"""Where records lie: those shipped with the package, and those that the user tuned."""

from __future__ import annotations

from pathlib import Path

from tvmlayers import userdata
from tvmlayers.errors import RecordError
from tvmlayers.records.record import is_plain_name

VARIABLE = "TVMLAYERS_RECORDS"
PACKAGED = Path(__file__).with_name("data")
CHECKOUT = Path(__file__).parents[2] / "schedules" / "records"


def shipped_folder() -> Path:
    """The records that come with the package; in a checkout, those of the repository."""
    return PACKAGED if PACKAGED.is_dir() else CHECKOUT


def user_folder() -> Path:
    """The user's own records: `$TVMLAYERS_RECORDS`, else `records` in the user's data folder.

    RecordError for a user without a home folder.
    """
    folder = find_user_folder()
    if folder is None:
        raise RecordError(
            f"this user has no home folder for records: set HOME or {VARIABLE} to a folder"
        )
    return folder


def find_user_folder() -> Path | None:
    """As `user_folder`, but None where there is none."""
    return userdata.user_folder(VARIABLE, "records")


def file_of(folder: Path, target: str, kind: str) -> Path:
    """The file of the records of one target and kind of kernel."""
    if not is_plain_name(target):
        raise RecordError(
            f"records lie in a folder named for their target; {target!r} can name none"
        )
    return folder / target / f"{kind}.json"
