"""Runs a causal LM: packed forwards, paged KV cache and attention, packed linear layers, devices. Needs torch."""
