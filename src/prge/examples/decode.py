"""The text of a file, whatever wrote it: gzip, UTF-8 with or without a mark, UTF-16, or a Windows code page."""

from __future__ import annotations

import gzip
import io
import re
import shlex
import zlib
from pathlib import Path

from prge.errors import UserError
from prge.files.bounded import DATA, read_bounded

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# What a text in Windows-1252 holds beside letters. Other signs, or these within words, speak of another code page.
_SIGNS = frozenset(bytes.fromhex("808284859192939495969799a0a1a3a5a7a9abaeb0b1b2b3b7bbbcbdbebf").decode("cp1252"))
# ... and those that stand within words: quotes, dashes, and a space that does not break.
_WITHIN = frozenset(bytes.fromhex("859192969799a0b7").decode("cp1252"))


def text_of(path: Path) -> tuple[str, list[str]]:
    """A file's text with ``\\n`` as the end of lines, and what is worth saying of how it was read.

    Raises:
        UserError: missing, too large, a damaged archive, or in no encoding that can be told.
    """
    data, notes = read_bounded(path, DATA), list[str]()
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(path, data)
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None) or _unmarked(data)
    if encoding == "utf-16" or encoding.startswith("utf-16-"):
        notes.append("the file is UTF-16, as Excel's Unicode text is")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        if encoding != "utf-8":
            raise UserError(f"{path} begins as {encoding.upper()}, but byte {e.start} is not; save it as UTF-8") from e
        text = _western(path, data, e.start)
        word = next((word for word in text.split() if not word.isascii()), text[:0])
        notes.append(f"the file is not UTF-8; it is read as Windows-1252, as in {word[:40]!r}")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def _unpacked(path: Path, data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as f:
            found = f.read(DATA + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path} is a damaged gzip archive: {e}") from e
    if len(found) > DATA:
        raise UserError(f"{path} holds more than {DATA:,} bytes once it is unpacked; split it")
    return found


def _unmarked(data: bytes) -> str:
    """UTF-16 without a mark shows by its zeros: in Western text every other byte is one."""
    head = data[:1000]
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        every = head[first::2]
        if len(head) >= 8 and every.count(0) > 0.7 * len(every) and not head[1 - first :: 2].count(0):
            return name
    return "utf-8"


def _western(path: Path, data: bytes, at: int) -> str:
    """The text as Windows-1252, which has what Western Europe writes, where it looks like such a text."""
    refused = UserError(
        f"{path} is not UTF-8 (byte {at}), and prge cannot tell its encoding; name the one it is in, as in "
        f"`iconv -f WINDOWS-1251 -t UTF-8 {shlex.quote(str(path))} > {shlex.quote('utf8-' + path.name)}`"
    )
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as e:
        raise refused from e
    foreign = [i for i, c in enumerate(text) if not c.isascii()]
    letters, high = (sum(c.isalpha() for c in each) for each in (text, [text[i] for i in foreign]))
    signs = [i for i in foreign if not text[i].isalpha()]
    within = [i for i in signs if text[i - 1 : i].isalpha() and text[i + 1 : i + 2].isalpha()]
    long = re.search(r"[^\W\d_\x00-\x7f]{4}", text)  # no Western word has so many beside each other
    odd = {text[i] for i in signs} - _SIGNS or {text[i] for i in within} - _WITHIN
    if odd or long or 3 * high > letters or any(c < " " and c not in "\t\n\r\f" for c in text):
        raise refused
    return text
