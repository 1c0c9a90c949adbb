"""Format versions of what runs write, integers that grow by one with each incompatible change.

Files from before there were versions have none; they are read as format 1.
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any, Final

from lit_hier.errors import InputError
from lit_hier.io.safe_read import read_file

RUN_FORMAT: Final = 1  # a run's folder
CHECKPOINT_FORMAT: Final = 1
SAMPLES_FORMAT: Final = 1  # a folder of kept samples
RUN_FILE: Final = "run.json"  # in a run's folder
FORMAT_KEY: Final = "lit_hier_format"  # in a checkpoint


def check_format(found: Any, supported: int, argument: str, path: str | PathLike[str]) -> None:
    """Check the format version of a file or folder.

    Args:
        found: Its version; None if it has none.
        supported: The version that is read.
        argument: The user's name for it, for the error's message.
        path: Where it is, likewise.

    Raises:
        InputError: It is another version.
    """
    if found not in (None, supported):
        raise InputError(
            f"{argument}: {path} has format {found}, and this version of lit-hier reads format"
            f" {supported}; use the version that wrote it, or run it again"
        )


def check_run(folder: str | PathLike[str], argument: str) -> None:
    """Check the format version of a run's folder.

    Raises:
        InputError: It is another version, or `run.json` is damaged.
    """
    path = Path(folder, RUN_FILE)
    try:
        found = json.loads(read_file(path))["format"]
    except FileNotFoundError:
        found = None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{argument}: {path} is damaged; run it again") from error
    check_format(found, RUN_FORMAT, argument, folder)
