"""What every HTTP request shares: errors, authentication, body, disconnects, server-sent events, drain."""
