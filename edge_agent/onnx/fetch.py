"""`edgedraft draft fetch`: gets the draft of the gateway's model, which the gateway offers to browsers too.

The files need a key with the edge scope, as the browser's page does. Of the draft's graphs those are fetched that
ONNX Runtime's execution providers on this machine want: int8 for the CPU, fp16 for an accelerator. Nothing that the
gateway sends is trusted: what is fetched is bounded by the manifest, and each file is put into its place when its
checksum was right.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edge_agent.attach.address import http_url, is_unencrypted
from edge_agent.attach.downloads import DownloadFailed, GatewayFiles
from edge_agent.attach.errors import AttachRejected
from edge_agent.desktop.login import fill_from_login
from edge_agent.foreign_text import printable
from edge_agent.onnx.contract import VariantName
from edge_agent.onnx.folder import MAX_GRAPH
from edge_agent.onnx.kept import fetched_folder, remove_older
from edge_agent.onnx.model import load_model
from edge_agent.onnx.providers import find_devices
from edge_agent.settings import DraftFetchSettings
from edgedraft.draft_manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST,
    DamagedFile,
    DraftFile,
    DraftManifest,
    check_file,
    checked,
    parse_manifest,
)
from edgedraft.observability.logs import configure_logging
from edgedraft.observability.progress import progress

OFFERS_PATH = "/attach/drafts"
MAX_OFFERS = 1 << 20  # bytes
SPARE_BYTES = 1 << 28  # that stay free on the disk
LEFTOVER_SECONDS = 3600.0  # since a file was written to that a fetch which was killed has left

Text = Annotated[str, Meta(max_length=1024)]


class FetchFailed(Exception):
    """There is no draft to be had; the message tells the user what to do."""


class Offer(Struct, frozen=True):
    """A draft that a gateway offers for its `model`. `manifest` is missing from gateways that know browsers only."""

    model: Text
    name: Text
    manifest: DraftFile | None = None


class Offers(Struct, frozen=True):
    """The answer to OFFERS_PATH, as far as it matters here."""

    drafts: Annotated[list[Offer], Meta(max_length=1024)]


@dataclass(frozen=True)
class Fetched:
    """A draft in its folder, which runs here as `runs` says; `others` are the names of those that were offered too."""

    folder: Path
    offer: Offer
    runs: str
    others: list[str]


def main(settings: DraftFetchSettings) -> None:
    """Run `edgedraft draft fetch`. Exits with 1 and a line on stderr when there is no draft to be had."""
    configure_logging(settings.log_level, settings.log_format)
    try:
        fetched = fetch_draft(fill_from_login(settings))
    except KeyboardInterrupt:
        sys.exit(130)
    except (AttachRejected, DownloadFailed, FetchFailed, OSError, ValueError) as error:
        sys.exit(f"edgedraft draft fetch: {error}")
    print(f"the draft {printable(fetched.offer.name)} for {printable(fetched.offer.model)} is in {fetched.folder}")
    print(f"it runs {fetched.runs}; `edgedraft attach` now finds it")
    if fetched.others:
        print(f"also offered, to be fetched with --draft NAME: {', '.join(map(printable, fetched.others))}")


def fetch_draft(settings: DraftFetchSettings) -> Fetched:
    """Fetch a draft, try it, and remove an older one for the same tokenizer.

    Raises FetchFailed, DownloadFailed, OSError, and ValueError for a draft that cannot be used here.
    """
    url = http_url(settings.url)
    if is_unencrypted(url):
        print(f"{settings.url} is not encrypted: the key can be read on the way", file=sys.stderr)
    gateway = GatewayFiles(url, settings.key)
    offer, others = _choose(_read_offers(gateway), settings.draft)
    if offer.manifest is None:
        raise FetchFailed("the gateway offers drafts to browsers only: it runs an older version of edgedraft")
    document = msgspec.structs.replace(offer.manifest, name=MANIFEST_FILE)
    content = b"".join(checked(document, gateway.chunks(_path(document), MAX_MANIFEST)))
    manifest = parse_manifest(content)
    folder = fetched_folder(settings.drafts_folder, manifest, document)
    variants = _wanted_variants(manifest, settings.provider)
    _fetch_files(gateway, folder, [manifest.head_ids, *(manifest.variants[name].file for name in variants)])
    _put(folder, document, [content])  # last: a folder that has it is complete
    try:
        model = load_model(folder, settings.provider, max(1, (os.cpu_count() or 2) - 1))
    except ValueError:
        (folder / MANIFEST_FILE).unlink()
        raise
    remove_older(folder)
    return Fetched(folder, offer, f"on {model.device.description} in {model.variant}", others)


def _read_offers(gateway: GatewayFiles) -> list[Offer]:
    try:
        return msgspec.json.decode(gateway.read(OFFERS_PATH, MAX_OFFERS), type=Offers).drafts
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FetchFailed(f"{OFFERS_PATH}: it answers something else than expected: {printable(str(error))}") from None


def _choose(offers: list[Offer], name: str) -> tuple[Offer, list[str]]:
    """The draft of this name, or the first, and the names of the others. Raises FetchFailed."""
    if not offers:
        raise FetchFailed(
            "the gateway offers no draft for a model that it serves; its operator can: "
            "`edgedraft draft export`, and --browser-drafts of `edgedraft gateway`"
        )
    chosen = next((offer for offer in offers if offer.name == name or not name), None)
    if chosen is None:
        raise FetchFailed(
            f"the gateway offers no draft {name}, but {', '.join(printable(offer.name) for offer in offers)}"
        )
    return chosen, sorted({offer.name for offer in offers} - {chosen.name})


def _wanted_variants(manifest: DraftManifest, provider: str) -> list[VariantName]:
    """The graphs for the devices of this machine; one for another kind where the draft has none for them."""
    wanted = dict.fromkeys(device.variant for device in find_devices(provider))
    return [name for name in wanted if name in manifest.variants] or list(manifest.variants)[:1]


def _fetch_files(gateway: GatewayFiles, folder: Path, files: list[DraftFile]) -> None:
    """Fetch those of these files that are not in the folder.

    Raises DownloadFailed, FetchFailed, OSError and DamagedFile.
    """
    missing = [file for file in files if not _is_there(folder, file)]
    if large := next((file for file in missing if file.bytes > MAX_GRAPH), None):
        raise FetchFailed(f"{large.name} has {large.bytes} bytes, and no draft needs more than {MAX_GRAPH}")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    needed, free = sum(file.bytes for file in missing), shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise FetchFailed(f"it needs {needed / 1e6:.0f} MB, and only {free / 1e6:.0f} MB are free for {folder}")
    for file in missing:
        with progress(f"fetching {file.name}, {file.bytes / 1e6:.1f} MB", file.bytes / 1e6, "MB") as advance:

            def counted(chunks: Iterable[bytes]) -> Iterable[bytes]:
                for chunk in chunks:
                    advance(len(chunk) / 1e6)
                    yield chunk

            _put(folder, file, counted(gateway.chunks(_path(file), file.bytes)))


def _path(file: DraftFile) -> str:
    """Where a gateway has a file. What it says itself of that is not looked at: the key goes there."""
    return f"{OFFERS_PATH}/{file.sha256}"


def _put(folder: Path, file: DraftFile, chunks: Iterable[bytes]) -> None:
    """Write a file, which gets its name when its content was right. Raises OSError and DamagedFile."""
    descriptor, partial = tempfile.mkstemp(dir=folder, prefix=".fetching-")
    try:
        with open(descriptor, "wb") as out:
            for chunk in checked(file, chunks):
                out.write(chunk)
        os.replace(partial, folder / file.name)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _is_there(folder: Path, file: DraftFile) -> bool:
    try:
        check_file(folder, file)
    except (OSError, DamagedFile):
        return False
    return True


def _remove_leftovers(folder: Path) -> None:
    for partial in folder.glob(".fetching-*"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > LEFTOVER_SECONDS:
                partial.unlink()
