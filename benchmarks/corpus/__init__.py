"""A corpus of audio that is free for any use: `python -m benchmarks.corpus OUT` collects it."""
