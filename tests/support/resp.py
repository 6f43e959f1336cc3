"""Cut what a Redis client sends into complete commands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One complete command: its bytes as sent, and its words."""

    raw: bytes
    words: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """The command's name in capitals: `EVALSHA`."""
        return self.words[0].decode("ascii", "replace").upper() if self.words else ""


class CommandReader:
    """Collects the bytes of one connection and gives back the commands that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Command]:
        """Add data and return the commands completed by it; the rest waits for more."""
        self._buffer += data
        commands: list[Command] = []
        start = 0
        while parsed := self._parse(start):
            words, end = parsed
            commands.append(Command(bytes(self._buffer[start:end]), words))
            start = end
        del self._buffer[:start]
        return commands

    def _parse(self, start: int) -> tuple[tuple[bytes, ...], int] | None:
        header = self._line(start)
        if header is None:
            return None
        line, position = header
        if not line.startswith(b"*"):
            return tuple(line.split()), position
        words: list[bytes] = []
        for _ in range(int(line[1:])):
            word = self._bulk_string(position)
            if word is None:
                return None
            text, position = word
            words.append(text)
        return tuple(words), position

    def _bulk_string(self, start: int) -> tuple[bytes, int] | None:
        header = self._line(start)
        if header is None:
            return None
        line, begin = header
        if not line.startswith(b"$"):
            raise ValueError(f"not a request of the Redis protocol: {line!r}")
        end = begin + int(line[1:])
        return (bytes(self._buffer[begin:end]), end + 2) if len(self._buffer) >= end + 2 else None

    def _line(self, start: int) -> tuple[bytes, int] | None:
        end = self._buffer.find(b"\r\n", start)
        return None if end < 0 else (bytes(self._buffer[start:end]), end + 2)
