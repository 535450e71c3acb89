"""A simulator of serving systems in virtual time, whose verifier does real or recorded work.

- clock.py: virtual time; load.py: closed-loop and Poisson load, and the protocol of a system; measurement.py: results.
- target.py: the target's engine and the duration of its steps, live or recorded (playback.py).
- draft_model.py: the real draft model, each proposal computed once; recorded_chats.py, recordings.py: texts on disk.
- profiles.py, network.py: devices and links.
- verifier.py, agent.py: the verifier's real scheduler and the agent's real drafting decisions on the virtual clock.
- systems/: the ways to serve that are compared.

A step advances the clock by the CPU seconds that engine and scheduler took (live) or by a cost curve (recorded), a
draft forward by its device's profile, a message by its link's. One core can therefore stand for hundreds of devices.
Sockets and the gateway are not simulated here (loadtest/scale adds gateways).
"""
