"""The WebSocket links between agent, gateway, verifier and replicas: outbox, session table, tasks."""
