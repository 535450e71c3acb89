"""Recorded sessions of an agent, which the agents in Python and in JavaScript replay alike."""
