"""Drafters: everything that proposes next tokens, and how it is loaded."""
