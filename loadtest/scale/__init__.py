"""`bench scale`: from a hundred agents to a million, partly measured and partly simulated.

measure.py and costs.py measure what a gateway spends on each event, with real gateways, stores and scripted peers.
cell.py simulates a part of a service token by token; validation.py compares that simulation with a small real service
under the same load. service_size.py computes how large a service must be, service_simulation.py simulates it session by
session, and sizes.py puts it all into one table, with what exceeds its limits first.
"""
