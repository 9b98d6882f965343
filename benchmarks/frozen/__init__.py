"""Retrieval on frozen features: cheap enough for many methods, settings and seeds. See `benchmarks/evidence.py`."""
