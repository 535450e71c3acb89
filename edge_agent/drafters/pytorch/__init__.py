"""Drafting with a transformers model in PyTorch, and the format of distilled drafts."""
