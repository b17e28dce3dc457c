"""Weights: `checkpoint` is the folder they lie in, `registry` and `hub` find and load it by name; next: `run`."""
