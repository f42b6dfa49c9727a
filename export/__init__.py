"""The exporter: from a checkpoint to a program on disk, and what comes before and after."""
