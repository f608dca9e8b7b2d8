"""The size of a JPEG XL picture from its header: Pillow's plug-in decodes a picture as soon as it is opened."""

from __future__ import annotations

_CODESTREAM = b"\xff\x0a"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, None where the bytes are no JPEG XL.  (ISO/IEC 18181-1, SizeHeader.)"""
    stream = data if data.startswith(_CODESTREAM) else _in_boxes(data)
    if not stream.startswith(_CODESTREAM):
        return None
    bits = _Bits(stream[2:14])
    small = bits.take(1)
    height = bits.side(small)
    ratio = bits.take(3)
    if ratio == 0:
        return bits.side(small), height
    over, under = _RATIOS[ratio - 1]
    return height * over // under, height


class _Bits:
    """The bits of some bytes, the lowest first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        taken = self.value & ((1 << count) - 1)
        self.value >>= count
        return taken

    def side(self, small: int) -> int:
        return (self.take(5) + 1) * 8 if small else self.take((9, 13, 18, 30)[self.take(2)]) + 1


def _in_boxes(data: bytes) -> bytes:
    """The beginning of the codestream in a container: in the box `jxlc`, or behind the number of the first `jxlp`."""
    place = 0
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        header = 16 if length == 1 else 8
        if length == 1:
            length = int.from_bytes(data[place + 8 : place + 16], "big")
        if kind in (b"jxlc", b"jxlp"):
            start = place + header + (4 if kind == b"jxlp" else 0)
            return data[start : start + 16]
        if length < header:  # 0: to the end of the file
            break
        place += length
    return b""
