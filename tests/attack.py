"""Objects that run code when they are unpickled, and the check that none did."""

import os
from pathlib import Path

EXECUTED = "EXECUTED"  # what code in a malformed file creates, in the working directory


class Attack:
    """Creates a folder when it is unpickled without restrictions."""

    def __init__(self, folder: Path = Path(EXECUTED)) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def assert_not_executed(folder: Path) -> None:
    """Check that no code of a malformed file was executed in a folder."""
    assert not (folder / EXECUTED).exists(), "code from a file was executed"
