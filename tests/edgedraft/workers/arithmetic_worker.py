"""A worker module for the tests of the pool: its jobs say what to do to the process."""

from __future__ import annotations

import os
import time

from edgedraft.workers.child import serve


def _do(job: bytes, setup: bytes | None) -> bytes:
    what, _, argument = job.decode().partition(" ")
    match what:
        case "echo":
            return argument.encode()
        case "setup":
            return setup or b"none"
        case "spin":
            while True:
                pass
        case "work":
            until = time.process_time() + float(argument)
            while time.process_time() < until:
                pass
        case "sleep":
            time.sleep(float(argument))
        case "eat":
            return bytes(len(bytearray(int(argument)))) and b""
        case "large":
            return bytes(int(argument))
        case "fail":
            raise ValueError(argument)
        case "exit":
            os._exit(1)
        case "print":
            print("not a frame", flush=True)
        case "environment":
            return repr(sorted(os.environ)).encode()
        case "pid":
            return str(os.getpid()).encode()
    return b""


def _load(content: bytes) -> bytes:
    if content == b"bad":
        raise ValueError("a bad setup")
    while content == b"endless":
        pass
    return content.upper()


if __name__ == "__main__":
    serve(_do, _load)
