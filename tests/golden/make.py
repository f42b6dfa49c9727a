"""Makes all golden vectors: ``python -m tests.golden.make`` in the repository's root."""

from __future__ import annotations

from pathlib import Path

from . import runs, steps, tokens

HERE = Path(__file__).parent


def files() -> tokens.Files:
    """All vectors, as the present code makes them: content by path in this folder."""
    return tokens.files() | steps.files() | runs.files()


def main() -> None:
    """Write them over those that are there."""
    for name, content in files().items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
