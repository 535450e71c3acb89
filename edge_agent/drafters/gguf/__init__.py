"""Drafting with a GGUF file, by llama.cpp inside this process."""
