"""Files and folders that hold prompts, keys or usage: nobody but their owner reads them."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TextIO

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path) -> Path:
    """Create a folder with mode 0700, and missing ones above it with the default mode; returns it.

    One that exists keeps its mode: it may be shared on purpose, and the files in it have modes of their own.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def make_private_file(file: Path) -> Path:
    """Create an empty file with mode 0600, or take the rights of others from one that exists; returns it."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    narrow(file)
    return file


def open_private(file: Path) -> TextIO:
    """Open a text file anew, which only its owner may read."""
    return make_private_file(file).open("w")


def narrow(file: Path) -> None:
    """Take the rights of others from a file, where it is this user's; does nothing if it is not there."""
    with suppress(OSError):
        rights = stat.S_IMODE(file.stat().st_mode)
        if rights & _OTHERS:
            file.chmod(rights & ~_OTHERS)
