"""`bench seed`: SpecEdge's experiment on this project's own parts, as a simulation whose server does the real work.

Four ways to serve the same requests (chats.py) with the same target: datacenter-only and EdgeDraft (streaming.py),
datacenter speculation (beside.py) and SpecEdge's rounds (rounds.py). Time is virtual (clock.py): a step of the target
moves it by the CPU seconds that engine and scheduler took for it (target.py), a look of a desktop's draft model by what
its device's profile says, a message by its link's (profiles.py). So one core stands for hundreds of desktops.
"""
