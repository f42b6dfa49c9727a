"""Keeps what libraries and native code print to stderr away from users."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard warnings, log records, and everything that is written to file descriptor 2.

    The descriptor is the whole process's, so other threads are silenced too. For loading and exporting, not for
    a step or a token.
    """
    level = logging.root.manager.disable
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            logging.disable(level)
