"""Rate limits and admission."""
