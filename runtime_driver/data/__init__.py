"""The data of a run: examples encoded, packed and in batches."""
