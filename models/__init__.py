"""What is fine-tuned: checkpoints in, an engine-friendly step module out."""
