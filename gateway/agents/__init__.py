"""Attached edge agents: endpoint, link, registry, message budget, statistics."""
