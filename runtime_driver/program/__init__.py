"""Loaded programs: the fine-tuning step and the generator, and the state that both take."""
