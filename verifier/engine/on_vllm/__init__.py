"""The vLLM engine, for models larger than one machine: vLLM computes; scheduling and verification stay EdgeDraft's.

start.py loads it, engine.py implements the engine interface, scheduler.py makes vLLM's own scheduler run exactly the
given step, worker.py verifies drafts inside vLLM's workers. Only this package imports vllm, and it is imported only for
`edgedraft verifier --engine vllm`.
"""
