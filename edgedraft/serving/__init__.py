"""Running ASGI apps under uvicorn, with bounds on what a peer may send and on how long it may take."""
