"""What every EdgeDraft process shares: wire messages, draft tree, noise, settings, telemetry, CLI."""

__version__ = "0.1.0"
