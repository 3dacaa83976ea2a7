"""Executors hand a message over, or refuse. They never fall back: the engine does."""
