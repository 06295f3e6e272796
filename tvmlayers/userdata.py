"""The folder where a user's own data lies, for users who have one."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path


def user_folder(variable: str, name: str) -> Path | None:
    """The folder in the environment's `variable`, else `name` in the user's data folder.

    None where both depend on a home folder, and there is none: HOME is not set, as in many a
    container, and the system does not know the user.
    """
    try:
        given = os.environ.get(variable)
        folder = Path(given).expanduser() if given else user_data_path("tvmlayers") / name
    except RuntimeError:
        return None
    # Older platformdirs give "~/.local/share/...", which would be made where the process is.
    return None if folder.parts[0] == "~" else folder
