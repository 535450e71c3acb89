"""Is what the device computes what the CPU computes? Each module has one function that fills a section of the report.

sampling.py: noise and sampled tokens, bit by bit. attention.py: masks and paged attention against a plain definition.
texts.py: texts of the engine (writing.py) on a pair of models (pairs.py), and an agent's proposals. kernels.py: the
attention kernel and the graphs that the engine uses when asked.
"""
