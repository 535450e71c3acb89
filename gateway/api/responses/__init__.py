"""OpenAI's Responses API over the same sessions as chat completions, with its responses kept in SQL."""
