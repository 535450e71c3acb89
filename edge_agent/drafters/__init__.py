"""Drafters: what guesses the next tokens, and loading them."""
