"""EdgeDraft's engine on vLLM alone, with the steps of run_edgedraft.py."""

from __future__ import annotations

from run_edgedraft import make_generate
from runner import Generate, Setup, serve

from verifier.settings import VerifierSettings


def load(setup: Setup) -> tuple[Generate, str]:
    from verifier.engine.on_vllm.start import load as start

    settings = VerifierSettings.model_validate(
        {
            "engine": "vllm",
            "model": setup.model,
            "dtype": setup.dtype,
            "threads": setup.threads,
            "max_sessions": setup.sessions,
            "kv_tokens": setup.sessions * setup.context,
            "context_length": setup.context,
            "step_tokens": setup.step_tokens,
        }
    )
    loaded = start(settings)
    assert loaded
    return make_generate(loaded[0], setup.step_tokens), f"on vLLM, steps of up to {setup.step_tokens} rows"


if __name__ == "__main__":
    serve(load)
