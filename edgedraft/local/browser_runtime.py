"""`edgedraft browser fetch`: onnxruntime-web's files, with which browsers run draft models.

npm downloads the package, so the user's registry, proxy and certificate settings apply. It is pinned by its SHA-256.
What a browser needs of it is put into a folder `onnxruntime-web`, which gateways serve (--browser-drafts).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from edgedraft.draft_manifest import RUNTIME_FOLDER
from edgedraft.local.demo_model import cache_root
from edgedraft.local.settings import BrowserFetchSettings

VERSION = "1.30.0"
PACKAGE_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
PACKAGE_BYTES = 33_106_585
MAX_FILE = 1 << 26  # bytes
# The variant for processors, and the one for WebGPU.
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
MARK = "VERSION"  # written last: a folder without it is not complete


class BrowserRuntimeError(RuntimeError):
    """The files could not be had; the message says what to do."""


def main(settings: BrowserFetchSettings) -> None:
    """Fetch the files, unless they are there. Exits with 1 and a line on stderr when they cannot be had."""
    folder = settings.out or browser_folder()
    try:
        fetch_runtime(folder, settings.package)
    except BrowserRuntimeError as error:
        sys.exit(f"edgedraft browser fetch: {error}")
    print(f"onnxruntime-web {VERSION} is in {folder / RUNTIME_FOLDER}")
    print(f"serve it, and drafts beside it, with: edgedraft gateway --browser-drafts {folder}")


def browser_folder() -> Path:
    """Where the files are kept for `edgedraft up`."""
    return cache_root() / "browser"


def has_runtime(folder: Path) -> bool:
    """Whether a folder has all files of this version."""
    mark = folder / RUNTIME_FOLDER / MARK
    return mark.is_file() and mark.read_text() == VERSION


def fetch_runtime(folder: Path, package: Path | None = None) -> None:
    """Put the files into `folder`/onnxruntime-web, from a package that was downloaded already if one is given.

    Raises BrowserRuntimeError.
    """
    if has_runtime(folder):
        return
    try:
        with tempfile.TemporaryDirectory() as scratch:
            archive = package or _download(Path(scratch))
            _check(archive)
            _unpack(archive, folder / RUNTIME_FOLDER)
    except OSError as error:
        raise BrowserRuntimeError(str(error)) from error


def _download(scratch: Path) -> Path:
    npm = shutil.which("npm")
    wanted = f"onnxruntime-web@{VERSION}"
    if npm is None:
        raise BrowserRuntimeError(
            f"npm is not installed: install Node.js, or download the package of {wanted} and pass --package FILE"
        )
    done = subprocess.run(
        [npm, "pack", "--silent", "--pack-destination", str(scratch), wanted],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    found = list(scratch.glob("*.tgz"))
    if done.returncode or not found:
        output = done.stdout.decode(errors="replace").strip()[-2000:]
        raise BrowserRuntimeError(f"npm could not fetch {wanted}: it ended with {done.returncode}\n{output}")
    return found[0]


def _check(archive: Path) -> None:
    if archive.stat().st_size == PACKAGE_BYTES:
        with archive.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == PACKAGE_SHA256:
                return
    raise BrowserRuntimeError(f"{archive} is not the package of onnxruntime-web {VERSION}: its checksum differs")


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).unlink(missing_ok=True)
    with tarfile.open(archive) as package:
        for name in FILES:
            member = package.extractfile(f"package/dist/{name}")
            assert member, "the checksum was right"
            (folder / name).write_bytes(member.read(MAX_FILE))
    (folder / MARK).write_text(VERSION)
