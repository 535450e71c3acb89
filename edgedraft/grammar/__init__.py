"""Compiles clients' grammars within one set of bounds, for the gateway and the verifier alike."""
