"""The pool of verifiers: links, discovery, selection, health, hedging, affinity."""
