"""Runners of `bench engine`: one process per system, started by path with that system's own Python.

A runner imports runner.py and its system's packages only, so that it runs where EdgeDraft is not installed.
"""
