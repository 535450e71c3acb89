"""A served model in the gateway: tokenizer, chat template, tool-call format, reasoning markers."""
