"""A served model as the gateway knows it: tokenizer, chat template, tool-call format, reasoning markers."""
