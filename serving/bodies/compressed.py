"""Compressed bodies, unpacked up to a limit."""

import zlib

from serving.bodies.refusals import Refused

Buffer = bytes | bytearray | memoryview

_STEP = 2**14  # bytes that are unpacked at a time, and copied at each member's end
_MOST_MEMBERS = 4096  # of gzip members, which may be concatenated


class TooLarge(Refused):
    """A body of more than `limit` bytes."""

    def __init__(self, limit: int):
        super().__init__(f"Received body larger than max ({limit} bytes)", "RESOURCE_EXHAUSTED")


def unpacked(body: Buffer, encoding: str, limit: int) -> Buffer:
    """A body without its `Content-Encoding`: gzip, deflate, identity, or empty for the last one.

    Raises:
        Refused: it has more than `limit` bytes (`TooLarge`; no more are unpacked), it does not
            unpack, or the encoding is another one.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        if len(body) > limit:
            raise TooLarge(limit)
        return body
    if encoding in ("gzip", "x-gzip"):
        bits = 16 + zlib.MAX_WBITS
    elif encoding == "deflate":
        # Many clients omit the header that the standard requires; its low bits are 8.
        bits = zlib.MAX_WBITS if body and body[0] & 0xF == 8 else -zlib.MAX_WBITS
    else:
        raise Refused(
            f"Content-Encoding is {encoding[:100]!r}; it must be gzip, deflate or identity"
        )
    view, found, start = memoryview(body), bytearray(), 0
    machine = zlib.decompressobj(bits)
    members = 1
    while start < len(view):
        if machine.eof:
            machine = zlib.decompressobj(bits)
            members += 1
            if members > _MOST_MEMBERS:
                raise Refused(f"The body has more than {_MOST_MEMBERS} {encoding} members")
        piece = view[start : start + _STEP]
        try:
            found += machine.decompress(piece, limit - len(found) + 1)
        except zlib.error as error:
            raise Refused(f"The body cannot be read as {encoding}: {error}") from error
        if len(found) > limit:
            raise TooLarge(limit)
        start += len(piece) - len(machine.unused_data)
    if not machine.eof:
        raise Refused(f"The body cannot be read as {encoding}: it ends too early")
    return found
