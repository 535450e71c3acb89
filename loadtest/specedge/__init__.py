"""SpecEdge's experiment (arXiv 2505.17052) on the simulator: ways to serve the same requests with the same target.

experiment.py is the main comparison at growing concurrency, whose server does the real work. sensitivity.py varies
links, devices and hardware with recorded steps, workloads.py the requests. live_agent.py compares a simulated agent
with a live one, vllm_comparison.py puts vLLM beside EdgeDraft on vLLM's engine.
"""
