"""`Connections`, the connections of a server: how many it holds, and for how long without a request."""

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Callable, Iterator

from aiohttp import web

IDLE_S = 8.0
"""Seconds that a connection gets to send a whole request with the token."""
GRACE_S = 0.5
"""Seconds before which a stranger does not make room for the next one."""

log = logging.getLogger("cir_env.sandbox")


class Connections:
    """Caps the connections of a server and closes idle ones, neither of which aiohttp does.

    Connections that have not sent the token yet are strangers. When there are too many, the oldest one makes room for
    the next, which waits in the kernel's queue until then: so strangers cannot lock out a client, whose token is
    received with its connection. When there are too many others, a new one is told so.

    Args:
        strangers: Maximum number of connections that have not authenticated; more while there are fewer clients.
        clients: Maximum number of those that have.
    """

    def __init__(self, *, strangers: int, clients: int) -> None:
        self._max_strangers, self._max_clients = strangers, clients
        self._strangers: dict[web.RequestHandler, float] = {}  # with its deadline; the oldest one is the first
        self._clients: dict[web.RequestHandler, float] = {}

    async def accept(self, listener: socket.socket, make: Callable[[], web.RequestHandler]) -> None:
        """Accept connections until the task is cancelled."""

        def enter() -> web.RequestHandler:
            protocol = make()
            self._strangers[protocol] = time.monotonic() + IDLE_S
            return protocol

        loop = asyncio.get_running_loop()
        while True:
            while not self._make_room():
                await asyncio.sleep(0.01)
            try:
                accepted, _ = await loop.sock_accept(listener)
                await loop.connect_accepted_socket(enter, accepted)
            except Exception as error:  # such as no free descriptor; the server must not turn deaf
                log.warning("Cannot accept a connection: %s", error)
                await asyncio.sleep(GRACE_S)

    @contextlib.contextmanager
    def serving(self, protocol: web.RequestHandler) -> Iterator[None]:
        """Hold a connection without a deadline while an authenticated request of it is served.

        Raises:
            HTTPTooManyRequests: As many clients as possible are connected.
        """
        self._strangers.pop(protocol, None)
        if protocol not in self._clients and len(self._clients) >= self._max_clients:
            for gone in [each for each in self._clients if each.transport is None]:
                del self._clients[gone]
            if len(self._clients) >= self._max_clients:
                raise closing(web.HTTPTooManyRequests(text=f"The server has {self._max_clients} connections already"))
        self._clients[protocol] = math.inf
        try:
            yield
        finally:
            self._clients[protocol] = time.monotonic() + IDLE_S

    def close_idle(self) -> None:
        """Close the connections whose deadline is over."""
        now = time.monotonic()
        for group in (self._strangers, self._clients):
            for protocol in [protocol for protocol, deadline in group.items() if deadline < now]:
                del group[protocol]
                protocol.force_close()

    def _make_room(self) -> bool:
        if len(self._strangers) + len(self._clients) < self._max_strangers + self._max_clients:
            return True
        oldest, deadline = next(iter(self._strangers.items()))
        if time.monotonic() < deadline - IDLE_S + GRACE_S:
            return False
        del self._strangers[oldest]
        oldest.force_close()
        return True


def closing(response: web.HTTPException) -> web.HTTPException:
    """Let a response be the last one of its connection."""
    response.force_close()
    return response
