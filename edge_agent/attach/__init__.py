"""The link to the gateway: dialling, reconnecting, and who is told of it."""
