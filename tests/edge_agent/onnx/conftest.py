"""Drafts exported to ONNX, once for all tests: the shipped one, and the tiny random Llama with its own tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edge_agent.drafters.pytorch.draft_model import shipped_draft
from edge_agent.onnx.export import export_draft
from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model

TEXT = """<|im_start|>user
How do plants live, and how is a string reversed?<|im_end|>
<|im_start|>assistant
Photosynthesis is the process by which plants convert light energy into chemical energy, which they store in glucose.
To reverse a string in Python:
```python
def reverse(s: str) -> str:
    return s[::-1]
```
If a train travels 60 miles in 1.5 hours, its average speed is 60 / 1.5 = 40 miles per hour.
"""


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped draft."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_draft(str(shipped_draft(DEMO_MODEL)), folder)
    return folder


@pytest.fixture(scope="session")
def tiny(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama of the fixture `target`."""
    folder = tmp_path_factory.mktemp("tiny") / "onnx"
    export_draft(str(target), folder)
    return folder


@pytest.fixture(scope="session")
def text() -> list[int]:
    """A chat as token ids of the demo model."""
    return Tokenizer.from_file(str(ensure_demo_model() / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
