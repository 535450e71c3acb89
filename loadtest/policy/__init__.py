"""`bench policy`: the verifier's step scheduling, judged with drafts of given acceptance in virtual time.

cells.py is the grid of loads and hardware, world.py the requests and the oracle that drafts for them, comparison.py
runs all systems of loadtest/specedge in each cell, setting.py says how much is measured. references/ adds the best
static step-start rule and drafts that are always there. bigger_draft.py adds drafts that only devices can afford,
capacity.py finds how many streams a server carries at a rate, plots.py draws heat maps, parallel.py divides cells among
processes.
"""
