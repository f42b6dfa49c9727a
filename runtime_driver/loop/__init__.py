"""The training loop: steps, evaluation, calibration, and what stops a run."""
