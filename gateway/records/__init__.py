"""What a generation reports when it is over: its record, and the statistics of its speculation."""
