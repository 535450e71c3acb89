"""Which rows of which sessions' draft trees a draft forward computes, for every runtime with a KV cache of its own."""
