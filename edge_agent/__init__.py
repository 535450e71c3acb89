"""The edge agent: a desktop program that drafts tokens with a small model for its owner's own sessions."""
