"""Generations and their sessions: one session per choice, from the first verifier to the last token."""
