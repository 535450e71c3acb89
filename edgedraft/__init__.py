"""Shared by all EdgeDraft programs: wire messages, draft tree, sampling, model runtime, settings, logs, CLI."""

__version__ = "0.1.0"
