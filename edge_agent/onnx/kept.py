"""The exported drafts that this machine keeps: one folder each, fetched from gateways or exported here.

A fetched draft's folder is named by the tokenizer that it is for and by the checksum of its manifest.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from edge_agent.foreign_text import printable
from edge_agent.onnx.folder import is_exported
from edgedraft.draft_manifest import MANIFEST_FILE, DraftFile, DraftManifest, UnusableManifest, read_manifest

DIGITS = 16  # of each of the two
FETCHED = re.compile(f"[0-9a-f]{{{DIGITS}}}-[0-9a-f]{{{DIGITS}}}")


def find_kept(drafts: Path) -> list[Path]:
    """The folders of the drafts that are kept in `drafts`, the latest first."""
    manifests = [file for file in drafts.glob(f"*/{MANIFEST_FILE}") if is_exported(file.parent)]
    return [file.parent for file in sorted(manifests, key=lambda file: file.stat().st_mtime, reverse=True)]


def kept_name(folder: Path) -> str:
    """What a draft is called, or its folder where that cannot be read."""
    try:
        return printable(read_manifest(folder).name)
    except (OSError, UnusableManifest):
        return folder.name


def fetched_folder(drafts: Path, manifest: DraftManifest, document: DraftFile) -> Path:
    """The folder of a fetched draft; `document` is the file of its manifest. Raises ValueError."""
    name = f"{manifest.fingerprint[:DIGITS]}-{document.sha256[:DIGITS]}"
    if not FETCHED.fullmatch(name):
        raise ValueError(f"{MANIFEST_FILE} has no tokenizer's fingerprint")
    return drafts / name


def remove_older(folder: Path) -> None:
    """Remove the other fetched drafts for the tokenizer of this one, so that no more than one is kept."""
    for other in folder.parent.iterdir():
        same_tokenizer = other.name[:DIGITS] == folder.name[:DIGITS] and FETCHED.fullmatch(other.name)
        if same_tokenizer and other.name != folder.name:
            shutil.rmtree(other, ignore_errors=True)
