"""The text of a file, whatever wrote it: gzip, UTF-8, UTF-16 or UTF-32 with or without a mark, or a code page."""

from __future__ import annotations

import gzip
import io
import re
import shlex
import zlib
from pathlib import Path

from prge.errors import UserError
from prge.files.bounded import DATA, read_bounded

_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}  # fmt: skip
# How files begin that are no text, and what to do with them.
_OTHERS = {
    b"PK\x03\x04": "a ZIP archive or an office document: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old office document: save the sheet as CSV",
    b"%PDF": "a PDF: save its text as .txt",
    b"BZh": "packed: unpack it with bunzip2",
    b"\xfd7zXZ": "packed: unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "packed: unpack it with unzstd",
    b"PAR1": "Parquet: let its name end in .parquet",
    b"SQLite format 3": "a database: export the table as CSV",
    b"version https://git-lfs": "a pointer of Git LFS, not the data: fetch them with `git lfs pull`",
    b"<!doctype html": "a web page, not the data: download the file itself",
    b"<html": "a web page, not the data: download the file itself",
}
_COMMON = frozenset(' \n\t,;:."{}0123456789')
# What a text in Windows-1252 holds beside letters. Other signs, or these within words, speak of another code page.
_SIGNS = frozenset(bytes.fromhex("808284859192939495969799a0a1a3a5a7a9abaeb0b1b2b3b7bbbcbdbebf").decode("cp1252"))
# ... and those that stand within words: quotes, dashes, and a space that does not break.
_WITHIN = frozenset(bytes.fromhex("859192969799a0b7").decode("cp1252"))
# Encodings that a refusal may name, and the letters of which a text in them mostly is.
_KANA_OR_KANJI, _KANJI, _CYRILLIC = r"[\u3040-\u30ff\u4e00-\u9fff]", r"[\u4e00-\u9fff]", r"[\u0401\u0410-\u044f\u0451]"
_GUESSES = {
    "SHIFT_JIS": _KANA_OR_KANJI, "EUC-JP": _KANA_OR_KANJI, "EUC-KR": r"[\uac00-\ud7a3]", "GB18030": _KANJI,
    "BIG5": _KANJI, "WINDOWS-1251": _CYRILLIC, "KOI8-R": _CYRILLIC, "WINDOWS-1253": r"[\u0370-\u03ff]",
    "WINDOWS-1255": r"[\u05d0-\u05ea]", "WINDOWS-1256": r"[\u0620-\u06d5]", "WINDOWS-1250": r"[\u00c0-\u017e]",
}  # fmt: skip


def text_of(path: Path) -> tuple[str, list[str]]:
    """A file's text with ``\\n`` as the end of lines, and what is worth saying of how it was read.

    Raises:
        UserError: missing, too large, a damaged archive, no text, or in no encoding that can be told.
    """
    data, notes = read_bounded(path, DATA), list[str]()
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(path, data)
    begin = data[:64].lstrip().lower()
    other = next((what for mark, what in _OTHERS.items() if begin.startswith(mark.lower())), None)
    if other:
        raise UserError(f"{path} is {other}")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None) or _unmarked(data)
    if encoding.startswith(("utf-16", "utf-32")):
        notes.append(f"the file is {encoding[:6].upper()}, as Excel's Unicode text is")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as e:
        if not encoding.startswith("utf-8"):
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
    """UTF-16 without a mark shows by the zeros of its spaces, digits and ends of lines, which no other text has."""
    head = data[: 4000 - len(data) % 2]
    if head.count(0) < 2:
        return "utf-8"
    # Read with the bytes of each letter exchanged, a space is a sign of a script that hardly anyone writes.
    plain = {name: _plain(head, name) for name in ("utf-16-le", "utf-16-be")}
    best = max(plain, key=plain.__getitem__)
    return best if plain[best] > 2 * sum(plain.values()) / 3 else "utf-8"


def _plain(data: bytes, encoding: str) -> int:
    """How many spaces, digits and common signs a text holds; 0 where it is no text."""
    text = data.decode(encoding, "replace")
    odd = sum(c == "\ufffd" or (c < " " and c not in "\t\n\r\f") for c in text)
    return 0 if odd > 1 else sum(c in _COMMON for c in text)


def _western(path: Path, data: bytes, at: int) -> str:
    """The text as Windows-1252, which has what Western Europe writes, where it looks like such a text."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as e:
        raise _unknown(path, data, at) from e
    foreign = [i for i, c in enumerate(text) if not c.isascii()]
    letters, high = (sum(c.isalpha() for c in each) for each in (text, [text[i] for i in foreign]))
    signs = [i for i in foreign if not text[i].isalpha()]
    within = [i for i in signs if text[i - 1 : i].isalpha() and text[i + 1 : i + 2].isalpha()]
    long = re.search(r"[^\W\d_\x00-\x7f]{4}", text)  # no Western word has so many beside each other
    odd = {text[i] for i in signs} - _SIGNS or {text[i] for i in within} - _WITHIN
    if odd or long or 3 * high > letters or any(c < " " and c not in "\t\n\r\f" for c in text):
        raise _unknown(path, data, at)
    return text


def _unknown(path: Path, data: bytes, at: int) -> UserError:
    """The refusal of a text in an unknown encoding, with the one that it is most likely in."""
    name, sample = _guess(data)
    line = data.count(b"\n", 0, at) + 1
    likely = f"; it may be {name}, in which it reads {sample!r}" if sample else ""
    return UserError(
        f"{path} is not UTF-8 (line {line}), and prge cannot tell its encoding{likely}; name the one it is in, as in "
        f"`iconv -f {name} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote('utf8-' + path.name)}`"
    )


def _guess(data: bytes) -> tuple[str, str]:
    """The encoding in which most is of its usual letters, and what the first words are in it; empty for none."""
    best, most, sample = "WINDOWS-1251", 0.0, ""
    for name, letters in _GUESSES.items():
        try:
            text = data[:100_000].decode(name, "ignore" if len(data) > 100_000 else "strict")
        except UnicodeDecodeError:
            continue
        foreign = [c for c in text if not c.isascii() and c.isalpha()]
        share = sum(bool(re.match(letters, c)) for c in foreign) / max(1, len(foreign))
        kana = sum("\u3040" <= c <= "\u30ff" for c in foreign)
        if letters == _KANA_OR_KANJI:  # Japanese is never without them
            share *= min(1.0, 8 * kana / max(1, len(foreign)))
        if name != "WINDOWS-1250":  # letters of two scripts are in no word
            share -= len(re.findall(r"[a-zA-Z][^\W\d_\x00-\x7f]", text)) / max(1, len(foreign))
        # In the wrong one of two Cyrillic pages the capitals stand within the words.
        share -= len(re.findall(r"[^\W\d_a-zA-Z][\u0401\u0410-\u042f]", text)) / max(1, len(foreign))
        if share > max(most, 0.8):
            best, most = name, share
            sample = next((word for word in text.split() if not word.isascii()), "")[:30]
    return best, sample
