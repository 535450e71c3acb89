"""What `bench draft` compares with the agent's own draft model in PyTorch: other runtimes, a browser, llama-server."""
