"""Cutting the large weights out of an ONNX file before protobuf copies them: only their places in the file are found.

Protobuf's encoding is a row of fields, each a tag (number, kind), for the kind used here a length, and so many bytes.
Weights are field 9 (raw_data) of the tensors in field 5 (initializer) of field 7 (graph).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_GRAPH, _INITIALIZER, _DATA_TYPE, _RAW_DATA = 7, 5, 2, 9
# In place of the data: data_location (14) is EXTERNAL, external_data (13) says {"location": "in memory"}.
_ELSEWHERE = b"\x70\x01" + b"\x6a\x15" + b"\x0a\x08location" + b"\x12\x09in memory"


@dataclass(frozen=True)
class _Field:
    number: int
    start: int  # of the tag
    begin: int  # of the content
    end: int
    value: int  # of a field that is one number


def cut_weights(data: bytes | memoryview, smallest: int, types: frozenset[int]) -> tuple[bytes, dict[int, slice]]:
    """The file without the data of weights of these types and at least `smallest` bytes, and where those are.

    The places are given by each weight's index among the initializers. What is not understood is left as it is.
    """
    view = memoryview(data)
    try:
        graphs = [field for field in _fields(view, 0, len(view)) if field.number == _GRAPH]
        if len(graphs) != 1:
            return bytes(view), {}
        pieces, places = _without_weights(view, graphs[0], smallest, types)
    except (IndexError, ValueError):  # damaged: protobuf will say so
        return bytes(view), {}
    graph = b"".join(pieces)
    head, tail = view[: graphs[0].start], view[graphs[0].end :]
    return b"".join((head, _tag(_GRAPH), _varint(len(graph)), graph, tail)), places


def _without_weights(
    view: memoryview, graph: _Field, smallest: int, types: frozenset[int]
) -> tuple[list[bytes | memoryview], dict[int, slice]]:
    pieces: list[bytes | memoryview] = []
    places, index = {}, 0
    for field in _fields(view, graph.begin, graph.end):
        raw = None
        if field.number == _INITIALIZER:
            parts = list(_fields(view, field.begin, field.end))
            kind = next((part.value for part in parts if part.number == _DATA_TYPE), 0)
            raws = [part for part in parts if part.number == _RAW_DATA and part.end - part.begin >= smallest]
            raw = raws[0] if len(raws) == 1 and kind in types else None
            index += 1
        if raw is None:
            pieces.append(view[field.start : field.end])
        else:
            places[index - 1] = slice(raw.begin, raw.end)
            size = raw.start - field.begin + field.end - raw.end + len(_ELSEWHERE)
            pieces += [_tag(_INITIALIZER), _varint(size), view[field.begin : raw.start], view[raw.end : field.end], _ELSEWHERE]  # fmt: skip
    return pieces, places


def _fields(view: memoryview, begin: int, end: int) -> Iterator[_Field]:
    """The fields of a message.

    Raises:
        IndexError, ValueError: it is none.
    """
    at = begin
    while at < end:
        start = at
        tag, at = _number(view, at)
        value = 0
        match tag & 7:
            case 0:
                content = at
                value, at = _number(view, at)
            case 1:
                content, at = at, at + 8
            case 2:
                size, content = _number(view, at)
                at = content + size
            case 5:
                content, at = at, at + 4
            case kind:
                raise ValueError(kind)
        if at > end:
            raise ValueError(at)
        yield _Field(tag >> 3, start, content, at, value)


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """The number written at a place in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)
