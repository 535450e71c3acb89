"""GET /dashboard and the figures that its page polls."""
