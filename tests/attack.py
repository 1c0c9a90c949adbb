"""An object that runs code when it is unpickled."""

import os
from pathlib import Path


class Attack:
    """Creates a folder when it is unpickled without restrictions."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)
