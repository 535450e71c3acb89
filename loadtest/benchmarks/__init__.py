"""`edgedraft bench NAME`: the module NAME has a function NAME that takes BenchSettings and returns a Result."""
