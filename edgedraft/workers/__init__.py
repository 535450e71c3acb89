"""Work on strangers' input in processes that are bounded, shared fairly between API keys, and killed when unwanted."""
