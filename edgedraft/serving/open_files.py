"""How many files and sockets a process may have open: as many as the system lets it, for every stream is a socket."""

from __future__ import annotations

import sys


def allow_many_files() -> int:
    """Raise the soft limit to the hard one, and return it; 0 where there is no such limit to raise."""
    if sys.platform == "win32":
        return 0
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS tells a hard limit that it does not grant
            return soft
    return hard
