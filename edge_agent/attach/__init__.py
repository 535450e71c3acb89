"""The link to the gateway: connecting, reconnecting, and observers of it."""
