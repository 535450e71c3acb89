"""Attacks by strangers, one kind per file."""
