"""The training loop: steps, evaluation, calibration, and what ends it."""
