"""Limits of a key: rate limits, concurrency and monthly spend."""
