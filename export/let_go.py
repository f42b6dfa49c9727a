"""What torch and ExecuTorch keep of a finished export, dropped: with a generator, three programs are made in a row."""

from __future__ import annotations

import gc

from executorch.backends.xnnpack.partition.config import (
    gemm_configs,
    generic_node_configs,
    node_configs,
    xnnpack_config,
)
from executorch.exir.backend.utils import is_same_node
from torch._subclasses import FakeTensorMode

from prge.memory import return_freed


def let_go() -> None:
    """Empty the caches that hold whole graphs with their weights, and give what is free back to the system."""
    FakeTensorMode.cache_clear()
    is_same_node.cache_clear()
    for module in (gemm_configs, generic_node_configs, node_configs, xnnpack_config):
        module.why.node = None  # the last node that was refused, of whose graph it is
    gc.collect()
    return_freed()
