"""Benchmarks: workloads, measurements and the tables that compare both sides of a claim in one run."""
