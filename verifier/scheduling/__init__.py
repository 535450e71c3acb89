"""Which sessions and draft nodes go into the next step, and which sessions wait."""
