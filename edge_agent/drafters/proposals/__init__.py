"""From what a draft model says of the next token to a proposal, with the target's sampling, in NumPy."""
