"""vLLM alone, one step at a time: its own scheduler and sampler, optionally speculation by n-grams or a draft model.

For a benchmark in virtual time: a line of JSON on stdin opens or closes requests and runs one step, a line on stdout
has its tokens and the CPU seconds of all threads of this process.
"""

from __future__ import annotations

import os
import shutil
import time
from importlib import import_module
from typing import Any

from runner import Answer, answer_all

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def begin(setup: dict[str, Any]) -> tuple[Answer, str]:
    arguments: Any = import_module("vllm.engine.arg_utils")
    cores: Any = import_module("vllm.v1.engine.core")
    requests: Any = import_module("vllm.v1.request")
    vllm: Any = import_module("vllm")
    config = arguments.EngineArgs(
        model=setup["model"],
        dtype=setup["dtype"],
        max_model_len=setup["context"],
        max_num_seqs=setup["sessions"],
        max_num_batched_tokens=setup["step_tokens"],
        kv_cache_memory_bytes=setup["kv_bytes"],
        enforce_eager=setup.get("eager", shutil.which("g++") is None),
        async_scheduling=False,
        speculative_config=setup["speculation"] or None,
        seed=0,
    ).create_engine_config()
    executor: Any = import_module("vllm.v1.executor").Executor.get_class(config)
    core = cores.EngineCore(config, executor, log_stats=False)

    def answer(job: dict[str, Any]) -> dict[str, Any]:
        began = time.process_time()
        for name, prompt, most, eos, salt in job["open"]:
            sampling = vllm.SamplingParams(temperature=0, max_tokens=most, stop_token_ids=eos, detokenize=False)
            core.add_request(
                requests.Request(
                    request_id=name,
                    prompt_token_ids=prompt,
                    sampling_params=sampling,
                    pooling_params=None,
                    cache_salt=salt,
                    block_hasher=core.request_block_hasher,
                )
            )
        if job["close"]:
            core.abort_requests(job["close"])
        outputs, executed = core.step() if job["step"] else ({}, False)
        core.post_step(executed)
        made = [
            (output.request_id, list(output.new_token_ids), output.finish_reason is not None)
            for group in outputs.values()
            for output in group.outputs
        ]
        return {"made": made, "seconds": time.process_time() - began}

    return answer, f"vLLM {vllm.__version__}"


if __name__ == "__main__":
    answer_all(begin)
