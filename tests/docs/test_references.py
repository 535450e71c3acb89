"""Files that documents, docstrings and comments name exist, under the names that they have now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("edgedraft", "gateway", "verifier", "edge_agent", "loadtest", "tests", "examples")
FOLDERS = "|".join((*CODE, "charts", "containers", "docs"))
# A path from the repository's root, such as gateway/app.py or tests/e2e/, that no longer path or URL surrounds.
PATH = re.compile(rf"(?<![\w./:-])(?:{FOLDERS})/(?:[\w.-]+/)*(?:[\w-]+(?:\.[\w-]+)*)?")
LINK = re.compile(r"\]\((?!https?://|#)([^)\s#]+)(?:#[^)]*)?\)")

DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")) if path.name != "CHANGELOG.md")
MODULES = sorted(path for package in CODE for path in (ROOT / package).rglob("*.py"))


def named_files(text: str) -> set[str]:
    """Paths in a text that name a file, or with a slash at the end a folder."""
    return {
        path for path in PATH.findall(text) if path.endswith("/") or re.search(r"\.(py|md|toml|yaml|json|txt)$", path)
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    links = {(document.parent / link).resolve() for link in LINK.findall(text)}
    missing = [str(link) for link in links if not link.exists()]
    missing += [path for path in named_files(text) if not (ROOT / path).exists()]
    assert not missing


def test_files_that_a_module_names_exist() -> None:
    missing = {
        f"{module.relative_to(ROOT)}: {path}"
        for module in MODULES
        for path in named_files(module.read_text())
        if not (ROOT / path).exists()
    }
    assert not missing


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = (ROOT / "zensical.toml").read_text()
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert not {page for page in pages if f'"{page}"' not in navigation or f"({page})" not in index}
