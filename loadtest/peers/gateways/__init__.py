"""Processes for `bench gateway` and `bench streams`: stubs without a model, and helpers to run and measure servers.

Both stubs send the same tokens at the same interval, one through EdgeDraft's wire protocol, one through OpenAI's API.
"""
