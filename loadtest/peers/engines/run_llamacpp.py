"""llama.cpp's own server in xllamacpp: a slot per session, continuous batching, no prompt cache.

Keys and values have the weights' precision. `ignore_eos` bans end-of-sequence tokens instead of ignoring them, so a
text is comparable up to the point where it would have ended.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from runner import Generate, Output, Setup, serve


def load(setup: Setup) -> tuple[Generate, str]:
    llama: Any = import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = setup.model
    params.n_parallel = setup.sessions
    params.n_ctx = setup.sessions * setup.context
    params.n_batch = params.n_ubatch = setup.step_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup.threads
    kind = "GGML_TYPE_BF16" if setup.dtype == "bfloat16" else "GGML_TYPE_F32"
    params.cache_type_k = params.cache_type_v = getattr(llama.ggml_type, kind)
    params.cache_prompt = params.cache_idle_slots = params.fit_params = params.ui = False
    params.cache_ram_mib = params.n_ctx_checkpoints = 0
    params.verbosity = 0
    server = llama.Server(params)

    def generate(prompts: list[list[int]], tokens: int) -> list[Output]:
        reply = server.handle_completions(
            {"prompt": prompts, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        )
        if "choices" not in reply:
            raise RuntimeError(f"llama.cpp: {reply}")
        if reply["usage"]["completion_tokens"] not in (tokens, tokens * len(prompts)):
            raise RuntimeError(f"llama.cpp made {reply['usage']['completion_tokens']} tokens, not {tokens} per session")
        texts = {choice["index"]: choice["text"] for choice in reply["choices"]}
        return [texts[i] for i in range(len(prompts))]

    features = [part.strip() for part in llama.get_system_info().split("|") if part.strip().endswith("= 1")]
    built = ", ".join(part.split(" = ")[0].removeprefix("CPU : ") for part in features)
    return generate, f"xllamacpp {llama.__version__}, server with a slot per session; built for {built}"


if __name__ == "__main__":
    serve(load)
