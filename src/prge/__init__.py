"""prge: language models that fine-tune themselves on the ExecuTorch runtime, forward passes only."""

__version__ = "0.1.0"
