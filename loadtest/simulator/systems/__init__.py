"""The ways to serve that are compared: each implements loadtest.simulator.load.System."""
