"""What proposes tokens (interface.py), what an agent could draft with (candidates.py), and loading it (loading.py).

Drafters: lookup/ without a model, pytorch/, gguf/ and server/ with one; ONNX Runtime's is in edge_agent/onnx/.
What several models need is in forwards/ (which rows are computed) and proposals/ (from their results to a proposal).
"""
