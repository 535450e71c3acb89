"""One layer for every WebSocket link between agents, gateways, verifiers and replicas."""
