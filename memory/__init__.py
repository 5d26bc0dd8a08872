"""Durable storage of frames: rows and pictures on disk, exact search in memory, immutable windows for questions.

Start with `memory.store.MemoryStore` and `memory.window.Window`. Embeddings, patches and times come in as arguments,
numpy arrays go out; models, streams and clocks are the caller's.
"""
