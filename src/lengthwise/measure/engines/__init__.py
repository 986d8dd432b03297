"""What reads a text or answers a prompt: a model here, a server, workers, another harness."""
