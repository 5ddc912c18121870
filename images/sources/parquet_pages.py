"""What the pages of a Parquet file inflate to, by their own headers: a footer is told by whoever wrote the file.

Arrow takes a page's header at its word when it makes room for the page. A header is a struct of Thrift's compact protocol.
Source: the Parquet format's parquet.thrift (PageHeader), and Thrift's compact protocol.
"""

from collections.abc import Sequence

import pyarrow.parquet as pq

Data = Sequence[int]
# Of the compact protocol.
STOP, TRUE, FALSE, BYTE, INTEGERS, DOUBLE, BINARY, LIST, SET, STRUCT = 0, 1, 2, 3, (4, 5, 6), 7, 8, 9, 10, 12
UNCOMPRESSED, COMPRESSED = 2, 3
DEEPEST = 8


def inflated_size(data: Data, column: pq.ColumnChunkMetaData) -> int:
    """Bytes that the pages of a column chunk say they inflate to. data: the whole file.

    Raises ValueError where they are no pages, or stand outside of the file.
    """
    starts = [column.data_page_offset, column.dictionary_page_offset if column.has_dictionary_page else None]
    at = min(start for start in starts if start is not None and start > 0)
    end, found = at + column.total_compressed_size, 0
    try:
        while at < end:
            header, at = _struct(data, at)
            packed, whole = header[COMPRESSED], header[UNCOMPRESSED]
            if packed < 0 or whole < 0:
                raise ValueError("a page of negative size")
            found, at = found + whole, at + packed
    except (IndexError, KeyError) as error:
        raise ValueError(f"pages that cannot be read ({type(error).__name__})") from None
    return found


def _struct(data: Data, at: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """Numbers of a struct by field, and where it ends; everything else is passed over."""
    if depth > DEEPEST:
        raise ValueError("a page header without end")
    numbers: dict[int, int] = {}
    field = 0
    while (head := data[at]) != STOP:
        at += 1
        kind, step = head & 0x0F, head >> 4
        if step:
            field += step
        else:
            field, at = _number(data, at)
        if kind in (TRUE, FALSE):
            continue
        if kind in INTEGERS:
            numbers[field], at = _number(data, at)
        else:
            at = _skip(data, at, kind, depth)
    return numbers, at + 1


def _skip(data: Data, at: int, kind: int, depth: int) -> int:
    if kind == BYTE:
        return at + 1
    if kind in INTEGERS:
        return _number(data, at)[1]
    if kind == DOUBLE:
        return at + 8
    if kind == BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind == STRUCT:
        return _struct(data, at, depth + 1)[1]
    if kind in (LIST, SET):
        head, at = data[at], at + 1
        count, inner = head >> 4, head & 0x0F
        if count == 15:
            count, at = _varint(data, at)
        for _ in range(count):
            at = at + 1 if inner in (TRUE, FALSE) else _skip(data, at, inner, depth + 1)
        return at
    raise ValueError(f"a page header of an unknown kind {kind}")


def _number(data: Data, at: int) -> tuple[int, int]:
    """A signed number in zigzag coding, and where it ends."""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: Data, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
