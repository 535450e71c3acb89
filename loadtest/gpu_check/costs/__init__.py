"""What do steps and drafts cost on the device? Each module has one function that fills a section of the report.

graphs.py: CUDA graphs. target.py: steps of the target, and the ridge. sampling.py: what sampling adds
to them. draft.py: forwards of draft models. policy.py: all
systems of `bench policy` on these costs. timing.py is how all of them are timed.
"""
