"""Several gateways as one: which replica has whose agent (in Redis), and links between replicas to draft through."""
