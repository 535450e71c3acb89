"""Running ASGI apps under uvicorn, hardened against slow clients."""
