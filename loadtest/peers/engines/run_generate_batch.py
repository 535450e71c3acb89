"""transformers' continuous batching, which generate_batch uses: its manager, running between jobs.

Cache and batch sizes are set, since the default ones fill most of the machine's memory with masks.
"""

from __future__ import annotations

import torch
from runner import Generate, Output, Setup, serve
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

PAGE = 256


def load(setup: Setup) -> tuple[Generate, str]:
    torch.set_num_threads(setup.threads)
    model = AutoModelForCausalLM.from_pretrained(
        setup.model, dtype=getattr(torch, setup.dtype), attn_implementation="sdpa"
    ).eval()
    manager = model.init_continuous_batching(
        # Token -1 does not exist, so that no output ends early.
        generation_config=GenerationConfig(do_sample=False, max_new_tokens=setup.context, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=2 * setup.sessions * -(-setup.context // PAGE),
            max_batch_tokens=setup.step_tokens,
            max_requests_per_batch=setup.sessions,
            allow_block_sharing=False,
        ),
    )
    manager.start()

    def generate(prompts: list[list[int]], tokens: int) -> list[Output]:
        outputs: dict[str, list[int]] = {}
        keys = manager.add_requests(inputs=prompts, max_new_tokens=tokens)
        while len(outputs) < len(prompts):
            result = manager.get_result(timeout=1)
            if result is None:
                if not manager.is_running():
                    raise RuntimeError("the manager's thread ended")
            elif result.is_finished():
                outputs[result.request_id] = result.generated_tokens
        return [outputs[key] for key in keys]

    return generate, f"SDPA, pages of {PAGE}, batches of up to {setup.step_tokens} tokens"


if __name__ == "__main__":
    serve(load)
