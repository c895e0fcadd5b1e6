"""What a client knows of its servers: how busy each is, and whether it works."""

import logging
import random
import time
from collections.abc import Iterable

FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 10.0
"""Seconds for which a server that failed is avoided; they double with each failure."""

log = logging.getLogger("cir_env.sandbox")


class Server:
    """A server, as one client sees it. Not thread-safe: for the event loop of the client only."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.busy = 0
        self.has_answered = False
        self._failures = 0
        self._avoided_until = 0.0

    def rank(self) -> tuple[bool, int]:
        """Return a key to sort servers by: those that work first, the least busy of them at the front."""
        return time.monotonic() < self._avoided_until, self.busy

    def take(self) -> None:
        """Count a request. The first one after a backoff probes the server, while later ones still avoid it."""
        self.busy += 1
        if self._failures and time.monotonic() >= self._avoided_until:
            self._avoid()

    def answered(self) -> None:
        """Note that the server works."""
        self.has_answered = True
        self._failures, self._avoided_until = 0, 0.0

    def failed(self, why: str) -> None:
        """Note that it does not. All failures during a backoff count once."""
        if time.monotonic() >= self._avoided_until:
            log.warning("Avoiding the sandbox server at %s for a while: %s", self.url, why)
            self._avoid()

    def _avoid(self) -> None:
        backoff = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 10))
        self._failures, self._avoided_until = self._failures + 1, time.monotonic() + backoff


def shuffled(urls: Iterable[str]) -> list[Server]:
    """Return the servers in random order, so that not all clients prefer the same one of two idle servers."""
    servers = [Server(url) for url in dict.fromkeys(urls)]
    random.Random().shuffle(servers)
    return servers
