"""Settings of `edgedraft verifier`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.settings import SECRET_ADVICE, Port, TracedSettings
from edgedraft.wire import MAX_WINDOW


def parse_cpus(value: Any) -> Any:
    """Numbers and ranges as taskset spells them: 0-7,16."""
    if not isinstance(value, str):
        return value
    ranges = [part.partition("-") for part in value.split(",") if part.strip()]
    return tuple(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


class VerifierSettings(TracedSettings):
    """Serve a target model to gateways."""

    model: str = Field(DEMO_MODEL, description="target model: a Hugging Face name, a folder, or the demo model's name")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what computes: this process, or vLLM, for models beyond one machine"
    )
    engine_args: str = Field("", description="vLLM's own arguments as one text; what follows a -- is the same")
    served_name: str = Field("", description="the model's name in the API; the last part of --model if empty")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(9000, description="port to listen on; 0 takes a free one")
    verifier_token: str = Field(
        "",
        description=f"gateways must present it; required where --host is not this machine's loopback{SECRET_ADVICE}",
    )
    allow_unauthenticated: bool = Field(
        False, description="listen beyond this machine without a token: whoever reaches the port uses the model"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto is float32 on a CPU and bfloat16 elsewhere"
    )
    attention: Literal["gathered", "paged"] = Field(
        "gathered",
        description="keys of each session are gathered for PyTorch's attention, or read where they are by a kernel "
        "for CUDA that has not run on a GPU yet",
    )
    cuda_graphs: bool = Field(
        False,
        description="with paged attention, replay steps of up to 64 rows as CUDA graphs; has not run on a GPU yet",
    )
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 leaves it to torch")
    cpus: Annotated[tuple[int, ...], NoDecode, BeforeValidator(parse_cpus)] = Field(
        (), description="CPUs to stay on, such as 0-7,16; one thread on each unless --threads says otherwise"
    )
    max_sessions: int = Field(
        64, ge=1, le=4096, description="sessions at once, and an eighth more for keys that have none running; more wait"
    )
    max_waiting: int = Field(64, ge=0, le=4096, description="sessions in the admission queue; more are rejected")
    max_wait: float = Field(30.0, gt=0, le=3600, description="seconds in that line at most, waited or foreseen")
    kv_tokens: int = Field(32768, ge=256, description="tokens that the KV cache holds, all sessions together")
    context_length: int = Field(0, ge=0, description="longest prompt with output; 0 takes the model's own")
    step_tokens: int = Field(512, ge=16, description="tokens in one forward at most; long prompts take several")
    verify_nodes: int = Field(
        64, ge=0, le=MAX_WINDOW, description="draft nodes of one session verified in a forward at most"
    )
    prompt_delay: float = Field(
        0.3, gt=0, description="seconds that prompts may add to a forward while other sessions are running"
    )
    wait_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the time that drafting saves which may be spent waiting for drafts: "
        "less favours latency where drafts are slow, more the verifier's cost",
    )
    draft_wait: float = Field(0.5, ge=0, description="seconds that a step may be put off for drafts at most")
    prompt_lookup: bool = Field(
        True, description="where no agent's drafts are there, draft by repeating what the text said before"
    )
    drain_grace: float = Field(30.0, ge=0, description="seconds that sessions get to end after SIGTERM")

    @property
    def places(self) -> int:
        """Sessions that the engine takes: those at once, and those reserved for keys of which nothing runs."""
        return self.max_sessions + max(1, self.max_sessions // 8)
