"""The gateway: serves the OpenAI API, owns sessions, pairs them with agents and relays drafts to verifiers."""
