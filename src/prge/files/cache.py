"""The folder that prge keeps things in which it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

from prge.errors import UserError


def cache_folder() -> Path:
    """The folder: ``$PRGE_CACHE``, or ``prge`` in the user's cache folder.

    Raises:
        UserError: neither is set, and the user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    try:
        return Path(os.environ.get("PRGE_CACHE", f"{base}/prge")).expanduser()
    except RuntimeError as e:
        raise UserError("fetched models are kept in your home, and you have none: set PRGE_CACHE to a folder") from e
