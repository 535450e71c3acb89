"""Running a causal LM on packed rows: the model, its attention, the KV cache blocks and the device. Needs torch."""
