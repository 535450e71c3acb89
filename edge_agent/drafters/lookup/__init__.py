"""Drafters without a model: what stood in the text, in past outputs or in the client's prediction."""
