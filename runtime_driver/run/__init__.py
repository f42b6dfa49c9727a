"""A run's folder: its journal and its snapshots."""
