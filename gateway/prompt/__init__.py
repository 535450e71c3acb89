"""From a request's messages, tools and response format to a prompt, a grammar and an output parser."""
