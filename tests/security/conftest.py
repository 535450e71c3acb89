"""Fixtures of attacks: a gateway with one scripted verifier, as in tests/gateway."""

from tests.gateway.conftest import gateway, verifier

__all__ = ["gateway", "verifier"]  # fixtures
