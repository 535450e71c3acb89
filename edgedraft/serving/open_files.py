"""The limit of open files, raised as far as the system allows, since every stream is a socket."""

from __future__ import annotations

import sys


def allow_many_files() -> int:
    """Raise the soft limit to the hard one. Returns the limit; 0 on systems without one."""
    if sys.platform == "win32":
        return 0
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS reports a hard limit that it does not grant
            return soft
    return hard
