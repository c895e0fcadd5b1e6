"""`Connections`, the connections of a server: how many it holds, and for how long without a request."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from aiohttp import web

IDLE_S = 8.0
"""Seconds that a connection gets to send a whole request with the token."""


class Connections:
    """Caps the connections of a server and closes idle ones, which aiohttp does not.

    Connections that have not sent the token yet are strangers: at the cap, the oldest one makes room for a new one, so
    that strangers cannot lock out a client, which authenticates at once. At the cap of the others, a new one is told.

    Args:
        strangers: Maximum number of connections that have not authenticated.
        clients: Maximum number of those that have.
    """

    def __init__(self, *, strangers: int, clients: int) -> None:
        self.max_strangers, self._max_clients = strangers, clients
        self._strangers: dict[web.RequestHandler, float] = {}  # with its deadline; the oldest one is the first
        self._clients: dict[web.RequestHandler, float] = {}

    def accept(self, make: Callable[[], web.RequestHandler]) -> web.RequestHandler:
        """Make the protocol of a new connection."""
        if len(self._strangers) >= self.max_strangers:
            _close(self._strangers, next(iter(self._strangers)))
        protocol = make()
        self._strangers[protocol] = time.monotonic() + IDLE_S
        return protocol

    @contextlib.contextmanager
    def serving(self, protocol: web.RequestHandler) -> Iterator[None]:
        """Hold a connection without a deadline while an authenticated request of it is served.

        Raises:
            HTTPTooManyRequests: As many clients as possible are connected.
        """
        if protocol not in self._clients and len(self._clients) >= self._max_clients:
            for gone in [each for each in self._clients if each.transport is None]:
                del self._clients[gone]
            if len(self._clients) >= self._max_clients:
                raise closing(web.HTTPTooManyRequests(text=f"The server has {self._max_clients} connections already"))
        self._strangers.pop(protocol, None)
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
                _close(group, protocol)


def closing(response: web.HTTPException) -> web.HTTPException:
    """Let a response be the last one of its connection."""
    response.force_close()
    return response


def _close(group: dict[web.RequestHandler, float], protocol: web.RequestHandler) -> None:
    del group[protocol]
    protocol.force_close()
