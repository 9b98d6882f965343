"""Vectors of a corpus on disk: items in, vectors out, and what is found among them."""
