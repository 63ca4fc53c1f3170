"""Length-prefixed messages over a pipe or a socket: four bytes of length, then the data."""

import os

MAX_BYTES = 64_000_000
_HEADER = 4
_AT_ONCE = 1 << 16


def send(descriptor: int, data: bytes) -> None:
    """Write one message."""
    message = len(data).to_bytes(_HEADER, "little") + data
    written = os.write(descriptor, message)
    while written < len(message):
        written += os.write(descriptor, memoryview(message)[written:])


class Reader:
    """Reads messages, most of them in one system call."""

    def __init__(self, descriptor: int, max_bytes: int = MAX_BYTES) -> None:
        self._descriptor, self._max_bytes = descriptor, max_bytes
        self._buffer = b""

    def receive(self) -> bytes:
        """Read one message.

        Raises:
            EOFError: the other side has closed.
            ValueError: the message is larger than `max_bytes`.
        """
        self._fill(_HEADER)
        end = _HEADER + int.from_bytes(self._buffer[:_HEADER], "little")
        if end > self._max_bytes:
            raise ValueError(f"a message of {end:,} bytes")
        self._fill(end)
        message, self._buffer = self._buffer[_HEADER:end], self._buffer[end:]
        return message

    def _fill(self, size: int) -> None:
        if len(self._buffer) >= size:
            return
        parts, length = [self._buffer], len(self._buffer)
        while length < size:
            part = os.read(self._descriptor, max(_AT_ONCE, size - length))
            if not part:
                raise EOFError
            parts.append(part)
            length += len(part)
        self._buffer = b"".join(parts)
