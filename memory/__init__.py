"""What was seen: durable rows and pictures on disk, exact search and hot patches in memory, immutable windows.

The entrance is `memory.store.MemoryStore`; `memory.window.Window` is what a question works on. This package knows no
model, no stream and no clock: embeddings, patches and times come in as arguments, numpy arrays go out.
"""
