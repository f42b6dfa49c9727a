"""The device side: a .pte and examples in, a trained adapter out."""
