"""From a request's messages, tools and response format to a prompt and a grammar."""
