"""Keeps the desktop responsive: low process priority, and no drafting on battery or behind a full-screen program.

What can be detected depends on the platform: battery power wherever psutil reports it; a full-screen program, game or
presentation on Windows (SHQueryUserNotificationState); a game on Linux that has activated Feral's GameMode. macOS and
other Linux desktops have no portable sign of a full-screen program, and none is looked for. The link is not affected.
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
    """Lower this process's CPU priority, and on Linux its I/O priority."""
    with suppress(OSError, psutil.Error):
        process = psutil.Process()
        if sys.platform == "win32":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            os.nice(max(0, NICENESS - process.nice()))
        if sys.platform == "linux":
            process.ionice(psutil.IOPRIO_CLASS_IDLE)


def pause_reason() -> str:
    """The reason not to draft now; empty when there is none."""
    if on_battery():
        return "on battery"
    return busy_screen_reason()


def on_battery() -> bool:
    """Whether this machine runs on battery; False where there is none or it cannot be read."""
    with suppress(OSError, AttributeError, RuntimeError):
        battery = psutil.sensors_battery()
        return battery is not None and battery.power_plugged is False
    return False


def busy_screen_reason() -> str:
    """The kind of program that fills the screen or has activated GameMode; empty if none is detected."""
    if sys.platform == "win32":
        state = ctypes.c_int()
        ctypes.windll.shell32.SHQueryUserNotificationState(ctypes.byref(state))
        return FULL_SCREEN.get(state.value, "")
    if sys.platform == "linux" and (gamemode := shutil.which("gamemoded")):
        with suppress(OSError, subprocess.SubprocessError):
            status = subprocess.run([gamemode, "-s"], capture_output=True, text=True, timeout=2, check=False).stdout
            return "a game" if "is active" in status else ""
    return ""


class IdlePolicy:
    """Checks every CHECK_SECONDS whether to pause drafting, and reports changes to the observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._reason = ""

    def may_draft(self) -> bool:
        """Whether drafting is allowed now. Thread-safe."""
        return not self._reason

    async def watch(self) -> None:
        """Check until cancelled."""
        while True:
            reason = await asyncio.to_thread(pause_reason)
            if reason != self._reason:
                self._reason = reason
                self._observer.paused(reason)
            await asyncio.sleep(CHECK_SECONDS)
