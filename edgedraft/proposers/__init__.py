"""Guessing tokens without a model: prompt lookup and the client's predicted output."""
