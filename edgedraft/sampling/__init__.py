"""Sampling of the target's tokens: Gumbel noise, penalties, filters and the sampler that combines them."""
