"""vLLM without EdgeDraft, in a process of its own.

Reads a job as JSON on stdin, writes the texts as JSON to the file that the job names: greedy texts of `prompts`, and
`samples` texts after the prompt `drawn`, sampled with `sampling`.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def main() -> None:
    job: dict[str, Any] = json.load(sys.stdin)
    vllm: Any = import_module("vllm")
    model = vllm.LLM(job["model"], dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=32, seed=0)

    def made(prompts: list[list[int]], **parameters: Any) -> list[list[int]]:
        sampling = vllm.SamplingParams(ignore_eos=True, detokenize=False, **parameters)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [
            list(one.token_ids) for result in model.generate(asked, sampling, use_tqdm=False) for one in result.outputs
        ]

    greedy = made(job["prompts"], temperature=0, max_tokens=job["tokens"])
    sampled = made([job["drawn"]] * job["samples"], max_tokens=2, **job["sampling"])
    with open(job["to"], "w") as file:
        json.dump({"greedy": greedy, "sampled": sampled}, file)


if __name__ == "__main__":
    main()
