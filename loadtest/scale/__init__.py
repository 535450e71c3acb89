"""`bench scale`: from one box to a million agents, on paper and in simulation.

Costs of one of everything are measured on real gateways, stores and peers (measure.py, costs.py). A simulation
token by token (cell.py) is held against a small real system under the same load (match.py); then it tells what one
gateway core bears, and a coarser one (crowd.py), session by session, what happens in a service of any size (sizes.py).
"""
