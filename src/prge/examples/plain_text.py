"""The rows of a text file: its paragraphs or lines, the texts of fastText, or a table under a text's name."""

from __future__ import annotations

import re

from prge.examples.cells import separator_of
from prge.examples.contents import Contents
from prge.examples.names import KNOWN, key
from prge.examples.table import Expected, table_rows

# fastText: the classes, and the text behind them.
_FASTTEXT = re.compile(r"((?:__label__\S+\s+)+)(.*)")
# A line of an exported chat begins with its time and a name.
_SAID = re.compile(r"\W?\d{1,4}[./-]\d{1,2}[./-]\d{1,4},? \d{1,2}:\d{2}.{0,12}?[\]-] ?[^:]{1,40}: ")


def text_rows(where: object, text: str, expected: Expected) -> Contents:
    """The rows of a text: ``text`` by paragraph, or by line where no empty line divides any.

    A text whose lines have tabs is a table, and so is one whose first line has the usual names of columns.

    Raises:
        UserError: as `table_rows`.
    """
    first, *others = [line for line in text.split("\n", 50) if line.strip()] or [""]
    if "\t" in first and (len(expected.columns) > 1 or separator_of(text, "\t") == "\t"):
        return table_rows(where, text, "\t", expected)
    sign = separator_of(text, ",") if others else ""
    if sign and len([cell for cell in first.split(sign) if key(cell) in KNOWN]) > 1:
        return table_rows(where, text, sign, expected)
    if first.startswith("__label__"):
        return _fasttext(where, text)
    return _paragraphs(text)


def _fasttext(where: object, text: str) -> Contents:
    contents = Contents(notes=["the lines are fastText's: the classes, and the text behind them"])
    for number, line in enumerate(text.split("\n"), 1):
        found = _FASTTEXT.fullmatch(line.strip())
        if found:
            labels = [label.removeprefix("__label__") for label in found[1].split()]
            contents.rows.append((number, {"text": found[2], "label": labels}))
        elif line.strip():
            contents.leave_out(number, "a line without __label__")
    contents.check(where)
    return contents


def _paragraphs(text: str) -> Contents:
    """Blocks of lines between empty lines, each with the number of its first line; or the lines of the only one."""
    lines = text.splitlines()
    contents, inside = Contents(), False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            inside = False
        elif inside:
            contents.rows[-1][1]["text"] += "\n" + line
        else:
            contents.rows.append((number, {"text": line}))
            inside = True
    if len(contents.rows) == 1 and "\n" in contents.rows[0][1]["text"]:
        contents.rows = [(number, {"text": line}) for number, line in enumerate(lines, 1) if line.strip()]
        contents.notes.append("no empty line divides the text, so each line is an example")
    said = sum(bool(_SAID.match(line)) for line in lines)
    if 2 * said > len(lines):
        contents.notes.append(
            "it looks like an exported chat, and all of it is learned as text; to learn one person's replies alone, "
            'write each conversation as {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}'
        )
    return contents
