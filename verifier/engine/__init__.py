"""Engines: the interface, verification of drafts, the embedded transformers engine and vLLM."""
