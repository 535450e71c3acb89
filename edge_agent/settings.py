"""Settings of `edgedraft attach`, of the commands beside it on a desktop, and of `edgedraft distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from platformdirs import user_data_path
from pydantic import Field, model_validator
from pydantic_settings import CliPositionalArg

from edgedraft.local.demo_model import DEMO_MODEL, cache_root
from edgedraft.settings import (
    COMMA_SEPARATED,
    KEY_ADVICE,
    SECRET_ADVICE,
    KeySettings,
    Settings,
    TracedSettings,
    read_key_file,
)


class DraftServerSettings(Settings):
    """A model server that already runs, to draft with."""

    draft_url: str = Field(
        "", description="draft with a server that runs already: llama-server, vLLM, SGLang; http://127.0.0.1:8080"
    )
    draft_key: str = Field("", description=f"key of --draft-url{SECRET_ADVICE}, nor does --draft-key-file")
    draft_key_file: Path | None = Field(None, description="file that holds --draft-key")
    draft_tokenizer: str = Field(
        "", description="folder or name of the gateway's model, where the server does not tell its tokenizer"
    )
    find_servers: bool = Field(
        True, description="with --draft-model auto, look for your model servers on this machine's usual ports"
    )

    @model_validator(mode="after")
    def _read_draft_key_file(self) -> Self:
        if self.draft_key_file and not self.draft_key:
            self.draft_key = read_key_file(self.draft_key_file)
        return self


class KeptDraftsSettings(Settings):
    """Where drafts that are exported to ONNX are kept."""

    drafts_folder: Path = Field(
        cache_root() / "drafts", description="where `edgedraft draft fetch` keeps drafts, and attach looks for one"
    )


class OnnxSettings(KeptDraftsSettings):
    """What runs drafts that are exported to ONNX."""

    provider: Literal["auto", "qnn", "coreml", "openvino", "directml", "nvtensorrtrtx", "cuda", "cpu"] = Field(
        "auto", description="ONNX Runtime's execution provider; auto is the first of these that loads the draft model"
    )


class DraftingSettings(DraftServerSettings, OnnxSettings):
    """What an agent drafts with, and the resources that it may use."""

    draft_model: str = Field(
        "auto",
        description="draft model: a Hugging Face name, a folder, a GGUF file, auto (fits the gateway's model) or none",
    )
    runtime: Literal["auto", "torch", "onnx", "gguf"] = Field(
        "auto", description="what runs the draft model; auto goes by its format"
    )
    prompt_lookup: bool = Field(True, description="also draft by repeating what the prompt or the text said before")
    past_outputs: bool = Field(
        True, description="also draft from what you were answered before, which is kept on this machine"
    )
    past_tokens: int = Field(262_144, ge=1024, le=1 << 24, description="tokens of past outputs that are kept at most")
    past_folder: Path = Field(user_data_path("edgedraft") / "past-outputs", description="where past outputs are kept")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto is bfloat16 where the device calculates in it"
    )
    threads: int = Field(0, ge=0, description="CPU threads of the draft model; 0 leaves one core free")
    max_memory: float = Field(0.0, ge=0, description="GB that the draft model and its KV cache may take; 0 is no limit")
    max_sessions: int = Field(8, ge=1, le=256, description="sessions drafted for at once")
    kv_tokens: int = Field(32768, ge=256, description="tokens that the draft's KV cache holds")
    polite: bool = Field(
        True, description="lowest priority, and no drafting on battery or while a game or a film fills the screen"
    )
    name: str = Field("", description="how the gateway calls this agent; the host's name if empty")


class GatewaySettings(KeySettings):
    """A gateway, and a key for it."""

    url: CliPositionalArg[str] = Field(
        "", description="the gateway's URL, such as https://gateway.example.com; the one of `edgedraft login` if empty"
    )
    key: str = Field("", description=f"a key with the edge scope; the one of `edgedraft login` if empty{KEY_ADVICE}")


class AgentSettings(DraftingSettings, TracedSettings, GatewaySettings):
    """Attach this machine to a gateway and draft for your own chats."""

    log_file: Path | None = Field(None, description="file to log to instead of stderr; rotated at 4 MB")
    live: bool = Field(True, description="a live view where the output is a terminal; else plain lines")


class LoginSettings(KeySettings):
    """Keep a gateway's URL and key, so that `edgedraft attach` needs neither."""

    url: CliPositionalArg[str] = Field(description="the gateway's URL, such as https://gateway.example.com")
    key: str = Field("", description=f"a key with the edge scope; asked for if empty{KEY_ADVICE}")


class AgentInstallSettings(DraftingSettings):
    """Attach whenever this user is logged in: a service of systemd or launchd, with the flags given here."""


class AgentUninstallSettings(Settings):
    """Stop the service and remove it."""


class AgentStatusSettings(Settings):
    """Tell whether the service is installed and running."""


class AgentForgetSettings(Settings):
    """Delete the past outputs that this user's agents stored on this machine."""

    past_folder: Path = Field(
        DraftingSettings.model_fields["past_folder"].default, description="where past outputs are kept"
    )


class DoctorSettings(AgentSettings):
    """Check device, memory, draft model, tokenizer and link, and say what to do about each that fails."""


class DraftExportSettings(KeptDraftsSettings):
    """Write a draft model as ONNX graphs, for agents without PyTorch and for browsers."""

    draft: str = Field("", description="draft model: a folder or a Hugging Face name; the shipped one if empty")
    onnx: Path | None = Field(None, description="folder to write; one in --drafts-folder if not given")


class DraftFetchSettings(OnnxSettings, GatewaySettings):
    """Fetch the draft of the gateway's model that ONNX Runtime runs on this machine, without PyTorch."""

    draft: str = Field("", description="name of the draft, where the gateway offers several; the first if empty")


class MeasuredSettings(Settings):
    """What the prompts are that drafts are measured on, and how the target answers them."""

    work: Path = Field(Path("distill-work"), description="folder for samples and checkpoints")
    slots: int = Field(128, ge=1, description="conversations that the target decodes at once")
    held_out: int = Field(24, ge=1, description="held-out prompts of each kind")
    seed: int = Field(0, description="seed of prompts, answers and order")
    device: str = Field("", description="device of target and draft; empty: CUDA where there is one")


class DraftEvaluateSettings(MeasuredSettings):
    """Measure how well a distilled draft predicts its target, on held-out prompts and on prompts written by hand."""

    draft: str = Field("", description="folder of a distilled draft; the shipped one if empty")


class DistillSettings(MeasuredSettings):
    """Make a draft model for any transformers causal LM; a run that was interrupted goes on with the same --work."""

    target: str = Field(DEMO_MODEL, description="name, folder or hub name of the model to imitate")
    out: Path = Field(Path("draft"), description="folder for the finished draft")
    onnx: Path | None = Field(None, description="folder for the finished draft as ONNX graphs too")
    start: str = Field("", description="a draft of the same target to go on from, by folder, or the shipped one's name")
    layers: Annotated[tuple[int, ...], *COMMA_SEPARATED] = Field(
        (), description="the target's layers to start from; empty: the first five, a middle one, the last two"
    )
    head_size: int = Field(16384, ge=1, description="rows of the cut output head")
    tokens: int = Field(1_000_000, ge=1, description="labelled tokens to collect")
    sample_seconds: float = Field(1800.0, ge=0, description="time limit of the collection")
    sample_length: int = Field(1024, ge=2, description="longest conversation in tokens; longer prompts are left out")
    answer_tokens: int = Field(320, ge=1, description="longest answer")
    top_k: int = Field(12, ge=1, description="labels kept of each position")
    passes: float = Field(4.0, gt=0, description="passes over the samples")
    train_seconds: float = Field(2700.0, ge=0, description="time limit of the training")
    row_tokens: int = Field(1024, ge=2, description="length of a packed row")
    rows: int = Field(2, ge=1, description="packed rows of one step")
    rate: float = Field(5e-4, gt=0, description="peak learning rate")
    estimate: bool = Field(
        False, description="print what it computes and how long GPUs take for it, and do nothing else"
    )
    evaluate_seconds: float = Field(300.0, ge=0, description="time between two checkpoints with held-out figures")
