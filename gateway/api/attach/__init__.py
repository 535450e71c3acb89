"""GET /attach, where a browser becomes an agent: its page, its draft models, and the tickets that it attaches with."""
