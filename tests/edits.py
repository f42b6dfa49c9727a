"""Ways to damage a file, or to lie in it, for hypothesis to draw."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st


@st.composite
def byte_edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Some bits turned, bytes put over others, cut off, put in, or taken out, at some places."""
    number = st.floats(0, 1, exclude_max=True)
    blob = st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\n", b'"', b"\t"]))
    kinds = st.sampled_from(["turn", "over", "cut", "in", "out"])
    edits = draw(st.lists(st.tuples(kinds, number, blob), min_size=1, max_size=3))

    def change(data: bytes) -> bytes:
        content = bytearray(data)
        for kind, where, some in edits:
            at = int(where * len(content))
            if kind == "turn" and content:
                content[at] ^= 1 << some[0] % 8
            elif kind == "over":
                content[at : at + len(some)] = some[: len(content) - at]
            elif kind == "cut":
                del content[at:]
            elif kind == "in":
                content[at:at] = some
            else:
                del content[at : at + len(some)]
        return bytes(content)

    return change


ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, -(2**63), 1e-320, 1e308, float("nan"), float("inf"), "", "x",
         "0", "\ud800", "\0", "../../x", "/etc/passwd", "{x.__class__}", "{text:>9999999999}", "{", "{{ 9**9**9 }}",
         "\n", "é" * 40, [], {}, [None], [[[]]], {"": 0}, ["a", "b"]]
    ),
    st.text(max_size=20), st.integers(), st.floats(), st.lists(st.integers(), max_size=3),
)  # fmt: skip


@st.composite
def json_edits(draw: st.DrawFn) -> Callable[[Any], Any]:
    """Some values of a document changed, taken out, or put in."""
    kinds = st.sampled_from(["set", "set", "set", "drop", "add"])
    edits = draw(
        st.lists(st.tuples(kinds, st.lists(st.integers(0, 99), min_size=1, max_size=4), ODD), min_size=1, max_size=2)
    )

    def change(document: Any) -> Any:
        root = {"document": document}
        for kind, path, drawn in edits:
            value = copy.deepcopy(drawn)
            inside: Any = root
            key: Any = "document"
            for step in path:
                held = inside[key]
                if not isinstance(held, (dict, list)) or not held:
                    break
                inside, key = held, (list(held)[step % len(held)] if isinstance(held, dict) else step % len(held))
            if kind == "drop" and inside is not root:
                del inside[key]
            elif kind == "add" and isinstance(inside, dict):
                inside["odd" if inside is not root else key] = value
            else:
                inside[key] = value
        return root["document"]

    return lambda document: change(copy.deepcopy(document))


def resealed(content: bytes) -> bytes:
    """A safetensors file with its checksum made anew, if it still has the place of one."""
    data = bytearray(content)
    at = data.find(b'"crc":"')
    if at >= 0:
        data[at : at + 16] = b'"crc":"00000000"'
        data[at : at + 16] = b'"crc":"%08x"' % zlib.crc32(data)
    return bytes(data)
