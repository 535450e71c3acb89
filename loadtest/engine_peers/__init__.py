"""Runners of `bench engine`: one process for each system, each started by path with that system's own Python.

Beside runner.py a runner imports only what its system brings, so that it runs where EdgeDraft is not installed.
"""
