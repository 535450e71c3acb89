"""The HTTP API: one module or folder per endpoint, with its route, request and response."""
