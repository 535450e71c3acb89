"""Which sessions go into the next step, with which draft nodes, and who waits."""
