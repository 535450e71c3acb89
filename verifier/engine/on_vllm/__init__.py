"""The engine for models beyond one machine: vLLM computes, plans and choices stay EdgeDraft's.

start.py loads it, engine.py is the engine that the scheduler sees, schedule.py tells vLLM's own scheduler what a step
holds, worker.py chooses the tokens where the logits are. Only this folder imports vllm, and nothing but `edgedraft
verifier --engine vllm` imports this folder.
"""
