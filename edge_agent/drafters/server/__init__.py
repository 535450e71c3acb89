"""Drafting with a model server that already runs: its APIs over HTTP, the check of its tokenizer, and the drafter."""
