"""Messages between a process and its decoder: a line of JSON, and as many bytes as it says.

Never a pickle: a decoder that a hostile file has taken over could send one.
"""

import json
from typing import Any, BinaryIO

BUFFER = 1 << 20  # bytes written at once, so that the other process wakes once for a short recording


def send(pipe: BinaryIO, message: dict[str, Any], content: bytes | memoryview = b"") -> None:
    """Write a message; flush the pipe after the last one."""
    pipe.write(json.dumps({**message, "bytes": len(content)}).encode() + b"\n")
    pipe.write(content)


def receive(pipe: BinaryIO) -> tuple[dict[str, Any], bytearray]:
    """The next message. Raises EOFError at the end, also in the middle of a message."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    content = bytearray(message["bytes"])
    if pipe.readinto(content) < len(content):
        raise EOFError
    return message, content
