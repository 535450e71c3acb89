"""What EdgeDraft's own rule is held against: the best static step-start rule, and drafts that are always there.

bounds.py runs both for a cell; static_scheduler.py and ideal_scheduler.py are their schedulers, both over
simple_scheduler.py.
"""
