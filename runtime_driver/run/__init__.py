"""A run on disk: its folder, its journal and its snapshots."""
