"""From a checkpoint to the module of a fine-tuning step, made of operations that the engine takes."""
