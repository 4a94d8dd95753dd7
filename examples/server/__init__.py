"""A server that draws digits: continuous batching behind FastAPI. `python -m examples.server` starts it."""
