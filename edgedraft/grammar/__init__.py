"""Compiling grammars within bounds of time and memory."""
