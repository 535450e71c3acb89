"""Being a good guest on somebody's desktop: lowest priority, and no drafting when the machine is wanted elsewhere.

What can be told differs: the battery wherever psutil sees one; a full-screen game, film or presentation on Windows, by
the shell's notification state; a game on Linux, where it asks Feral's GameMode for room. On macOS and on other Linux
desktops no portable sign of a full-screen program exists, and nothing is done. This file decides nothing about links.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
from contextlib import suppress

import psutil

from edge_agent.attach.observer import Observer

CHECK_SECONDS = 5.0
NICENESS = 10
# SHQueryUserNotificationState: busy (a full-screen window), a Direct3D game, a presentation.
FULL_SCREEN = {2: "a full-screen program", 3: "a game", 4: "a presentation"}


def lower_priority() -> None:
    """Lower this process's priority; everything else on the machine goes first."""
    with suppress(OSError, psutil.Error):
        process = psutil.Process()
        if sys.platform == "win32":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            os.nice(max(0, NICENESS - process.nice()))
        if sys.platform == "linux":
            process.ionice(psutil.IOPRIO_CLASS_IDLE)


def pause_reason() -> str:
    """Why the agent should not draft now; empty when it may."""
    if on_battery():
        return "on battery"
    return busy_screen_reason()


def on_battery() -> bool:
    """Whether this machine runs on its battery; False where there is none, or nobody knows."""
    with suppress(OSError, AttributeError, RuntimeError):
        battery = psutil.sensors_battery()
        return battery is not None and battery.power_plugged is False
    return False


def busy_screen_reason() -> str:
    """What has the screen, or the whole machine, for itself; empty if nothing, or if this platform does not tell."""
    if sys.platform == "win32":
        state = ctypes.c_int()
        ctypes.windll.shell32.SHQueryUserNotificationState(ctypes.byref(state))
        return FULL_SCREEN.get(state.value, "")
    if sys.platform == "linux" and (gamemode := shutil.which("gamemoded")):
        with suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run([gamemode, "-s"], capture_output=True, text=True, timeout=2, check=False).stdout
            return "a game" if "is active" in told else ""
    return ""


class IdlePolicy:
    """Asks now and then whether the machine is wanted elsewhere, and tells."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._reason = ""

    def may_draft(self) -> bool:
        """May be asked from any thread."""
        return not self._reason

    async def watch(self) -> None:
        """For ever."""
        while True:
            why = await asyncio.to_thread(pause_reason)
            if why != self._reason:
                self._reason = why
                self._observer.paused(why)
            await asyncio.sleep(CHECK_SECONDS)
