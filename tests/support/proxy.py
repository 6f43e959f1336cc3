"""A faulty network between a client and Redis.

A *request* is what arrived together in complete commands: one command or a pipeline. Whatever a client has sent is
delivered even if the client is gone by then, as a real network would, except in a black hole.
"""

import asyncio
import contextlib
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.support.resp import Command, CommandReader

T = TypeVar("T")
Request = tuple[Command, ...]

_CHUNK = 1 << 16
_CALL_SECONDS = 20
_GREETINGS = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT", "READONLY", "READWRITE"})


def is_work(request: Request) -> bool:
    """Tell requests that do something from those with which a client opens its connection."""
    return any(command.name not in _GREETINGS for command in request)


@dataclass(frozen=True)
class Faults:
    """What goes wrong; the default is nothing. Faults may be combined.

    A dropped reply closes the connection once Redis has executed the request. A late copy is a whole request, or one
    command of it, sent a second time on a connection of its own at a random moment of the next `copy_within_seconds`;
    its reply is thrown away. `only` picks the requests whose replies are dropped and that are copied. Connections that
    a black hole swallowed something of are closed when it ends; a silent one leaves all that it met dead for ever, and
    nobody is told.
    """

    drop_next: int = 0
    drop_probability: float = 0.0
    copy_probability: float = 0.0
    copy_within_seconds: float = 1.0
    delay_seconds: float = 0.0
    black_hole: bool = False
    silent: bool = False
    refuse: bool = False
    only: Callable[[Request], bool] = is_work


@dataclass
class Counts:
    """What the proxy has done so far."""

    connections: int = 0
    requests: int = 0
    replies_dropped: int = 0
    copies_made: int = 0
    copies_delivered: int = 0

    @property
    def copies_pending(self) -> int:
        """Late copies that are still on their way."""
        return self.copies_made - self.copies_delivered


@dataclass(eq=False)
class _Link:
    """One client's connection, and ours to Redis on its behalf."""

    client: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    greeting: list[Command] = field(default_factory=list)
    drops_reply: bool = False
    swallowed: bool = False
    is_dead: bool = False


class FaultyProxy:
    """Listens at `url` in a thread of its own and passes requests on to the Redis at `upstream_url`."""

    def __init__(self, upstream_url: str, *, tcp: bool = False, seed: int = 0) -> None:
        self.counts = Counts()
        self._upstream = urlsplit(upstream_url)
        self._directory = Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp"))
        self._tcp = tcp
        self._port = 0
        self._random = random.Random(seed)
        self._faults = Faults()
        self._drops_left = 0
        self._clients: set[asyncio.StreamWriter] = set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-proxy", daemon=True)

    @property
    def url(self) -> str:
        """The address for clients; it stays the same."""
        return f"redis://127.0.0.1:{self._port}/0" if self._tcp else f"unix://{self._directory / 'p.sock'}"

    def start(self) -> Self:
        """Listen, with no faults yet."""
        self._thread.start()
        self._call(self._listen())
        return self

    def inject(self, faults: Faults) -> None:
        """Let these faults happen from now on, instead of those before; in effect when this returns."""
        self._call(self._inject(faults))

    def heal(self) -> None:
        """Let nothing go wrong any more. Late copies and delayed requests already on their way still arrive."""
        self.inject(Faults())

    def cut(self) -> None:
        """Close every connection; clients may connect again."""
        self._call(self._cut(self._links))

    def close(self) -> None:
        """End everything and forget the late copies."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS)

    async def _listen(self) -> None:
        if self._tcp:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]
        else:
            self._listener = await asyncio.start_unix_server(self._accept, self._directory / "p.sock")

    async def _inject(self, faults: Faults) -> None:
        self._faults = faults
        self._drops_left = faults.drop_next
        if faults.refuse:
            self._stop_listening()
            await self._cut(self._links)
        elif self._listener is None:
            await self._listen()
        if not faults.black_hole:
            await self._cut({link for link in self._links if link.swallowed and not link.is_dead})
        elif faults.silent:
            for link in self._links:
                link.is_dead = True

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self, links: set[_Link]) -> None:
        for link in tuple(links):
            _abort(link.client)

    async def _end(self) -> None:
        self._stop_listening()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in tuple(self._clients):  # of tasks that had not begun
            _abort(writer)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.connections += 1
        self._clients.add(writer)
        self._spawn(self._serve(reader, writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._upstream.scheme == "unix":
            return await asyncio.open_unix_connection(self._upstream.path)
        return await asyncio.open_connection(self._upstream.hostname, self._upstream.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._relay(reader, writer)
        finally:
            _abort(writer)
            self._clients.discard(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await self._connect()
        except OSError:
            return
        link = _Link(writer, upstream_writer, is_dead=self._faults.black_hole and self._faults.silent)
        self._links.add(link)
        try:
            await asyncio.gather(self._pass_requests(reader, link), self._pass_replies(upstream_reader, link))
        finally:
            self._links.discard(link)
            _abort(upstream_writer)

    async def _pass_requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        commands = CommandReader()
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if request := tuple(commands.feed(data)):
                    await self._pass_request(request, link)
        with contextlib.suppress(OSError):
            link.upstream.write_eof()

    async def _pass_request(self, request: Request, link: _Link) -> None:
        self.counts.requests += 1
        if self._faults.black_hole or link.is_dead:
            link.swallowed = True
            return
        if self._faults.delay_seconds:
            await asyncio.sleep(self._faults.delay_seconds)
        if not is_work(request):
            link.greeting += request
        elif self._faults.only(request):
            link.drops_reply = link.drops_reply or self._decides_to_drop()
            self._perhaps_copy(request, link)
        link.upstream.write(b"".join(command.raw for command in request))
        await link.upstream.drain()

    async def _pass_replies(self, reader: asyncio.StreamReader, link: _Link) -> None:
        """Pass replies on until Redis closes; read on when the client is gone: Redis executes all it was sent."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._pass_reply(data, link)
        if not link.is_dead:
            await _close(link.client)

    async def _pass_reply(self, data: bytes, link: _Link) -> None:
        if link.client.is_closing():
            return
        if link.drops_reply:
            self.counts.replies_dropped += 1
            _abort(link.client)
        elif self._faults.black_hole or link.is_dead:
            link.swallowed = True
        else:
            link.client.write(data)
            with contextlib.suppress(OSError):
                await link.client.drain()

    def _decides_to_drop(self) -> bool:
        if self._drops_left:
            self._drops_left -= 1
            return True
        return self._random.random() < self._faults.drop_probability

    def _perhaps_copy(self, request: Request, link: _Link) -> None:
        if self._random.random() >= self._faults.copy_probability:
            return
        self.counts.copies_made += 1
        pause = self._random.uniform(0, self._faults.copy_within_seconds)
        self._spawn(self._deliver_copy((*link.greeting, *self._whole_or_part(request)), pause))

    def _whole_or_part(self, request: Request) -> Request:
        # Never a part of a transaction: its commands would be executed outside it.
        if any(command.name == "MULTI" for command in request) or self._random.random() < 0.5:
            return request
        return (self._random.choice(request),)

    async def _deliver_copy(self, request: Request, pause_seconds: float) -> None:
        try:
            await asyncio.sleep(pause_seconds)
            reader, writer = await self._connect()
            try:
                writer.write(b"".join(command.raw for command in request))
                writer.write_eof()
                while await reader.read(_CHUNK):
                    pass
            finally:
                _abort(writer)
        except OSError:
            pass  # Redis is away: this copy is lost, as a packet may be
        finally:
            self.counts.copies_delivered += 1


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close without waiting for a peer that does not read."""
    writer.transport.abort()
