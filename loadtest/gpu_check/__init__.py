"""`edgedraft gpu-check`: qualifies a machine with a GPU for this project, in one run of a few minutes.

main.py is the command: it runs the sections in order, each within its time, and writes the report (report.py) with
what machine.py says. exactness/ compares the device with the CPU, costs/ measures steps and drafts on random weights of
known shapes (shapes.py) and runs `bench policy` on them.
"""
