"""Other systems that benchmarks compare with, each in a process of its own, and stubs without a model."""
