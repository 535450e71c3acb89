"""`python -m tests.fuzz.honest_client HOST PORT`: asks for /healthz on one connection, and prints each wait in seconds.

A process of its own: in the fuzzer's, it would measure how busy the fuzzer is.
"""

from __future__ import annotations

import socket
import sys
import time

PAUSE = 0.02  # seconds


def main(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=60) as connection:
        while True:
            began, got = time.monotonic(), b""
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            while not got.endswith(b"}"):
                part = connection.recv(4096)
                if not part:
                    sys.exit("the connection was closed")
                got += part
            if not got.startswith(b"HTTP/1.1 200"):
                sys.exit(repr(got[:100]))
            print(time.monotonic() - began, flush=True)
            time.sleep(PAUSE)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
