"""vLLM on a CPU, with its engine in this process so that its CPU seconds are counted; no prefix cache.

If the machine has a C++ compiler, vLLM compiles the model, which takes a minute or two and makes it a little faster.
"""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from typing import Any

from runner import Generate, Output, Setup, serve

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def load(setup: Setup) -> tuple[Generate, str]:
    vllm: Any = import_module("vllm")
    eager = shutil.which("g++") is None
    model = vllm.LLM(
        model=setup.model,
        dtype=setup.dtype,
        enforce_eager=eager,
        enable_prefix_caching=False,
        max_num_batched_tokens=setup.step_tokens,
        max_num_seqs=setup.sessions,
        max_model_len=setup.context,
        seed=0,
    )

    def generate(prompts: list[list[int]], tokens: int) -> list[Output]:
        outputs = model.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            vllm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False),
            use_tqdm=False,
        )
        return [list(result.outputs[0].token_ids) for result in outputs]

    how = "not compiled" if eager else "compiled"
    return generate, f"vLLM {vllm.__version__}, {how}, batches of up to {setup.step_tokens} tokens"


if __name__ == "__main__":
    serve(load)
