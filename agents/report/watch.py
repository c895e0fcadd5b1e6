"""Serves the page of runs in progress on loopback; the page reloads itself when the runs' files change."""

from __future__ import annotations

import hashlib
import html
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from agents.core.errors import ConfigError, RunError, one_line
from agents.evaluation.metrics import summarise
from agents.evaluation.run_folder import read_run
from agents.report.page import evaluations_html, expect_libraries, training_html
from agents.tracking.history import is_training_run

_FILES = ("metrics.jsonl", "run.json", "samples.jsonl", "manifest.json")
_WAITING = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>Waiting</title>
<body style="font: 16px system-ui, sans-serif; margin: 2rem"><h1>Waiting for results</h1><p>{}</p></body></html>"""


class WatchServer(ThreadingHTTPServer):
    """Serves ``/``, the page, and ``/version``, which changes with the runs' files.

    Args:
        folders: Folders of training runs, or of evaluations or folders that hold such; they may still be empty.
        port: Port on loopback; 0: a free one.

    Raises:
        ConfigError: A folder is missing, or the port is not free.
        RunError: A library is missing.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int) -> None:
        expect_libraries()
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"Expect the folder of a run, got {folder}, which is none.")
        self._folders = folders
        self._lock = threading.Lock()
        self._built = ("", "")
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"Expect `port` to be free, got {port}: {one_line(error)}.") from error

    @property
    def hosts(self) -> tuple[str, str]:
        """The values of a request's Host header that are answered; others may be a website's, rebound to loopback."""
        return f"127.0.0.1:{self.server_port}", f"localhost:{self.server_port}"

    def version(self) -> str:
        """Return what changes whenever a file of the runs does."""
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self._files()]
        return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]

    def page(self) -> str:
        """Return the page, made anew if the version has changed."""
        with self._lock:
            version = self.version()
            if self._built[0] != version:
                try:
                    page = self._make(version)
                except (RunError, OSError) as error:  # a file is not there yet, or half written
                    return _WAITING.format(html.escape(one_line(error)))
                self._built = (version, page)
            return self._built[1]

    def _make(self, version: str) -> str:
        training = [folder for folder in self._folders if is_training_run(folder) or (folder / "run.json").exists()]
        if training:
            if len(training) < len(self._folders):
                raise RunError("Expect training runs or evaluations, got both.")
            return training_html(self._folders, version=version)
        found = sorted({path.parent for path in self._files() if path.name.startswith("manifest")})
        runs = [run for folder in found if (run := read_run(folder, partial=True)).samples]
        if not runs:
            raise RunError(f"No sample has been written to {', '.join(map(str, self._folders))} yet.")
        return evaluations_html(runs, [summarise(run) for run in runs], version=version)

    def _files(self) -> Iterator[Path]:
        return (path for folder in self._folders for pattern in _FILES for path in sorted(folder.rglob(pattern)))


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(421)
        elif self.path == "/":
            self._answer(self.server.page(), "text/html; charset=utf-8")
        elif self.path == "/version":
            self._answer(self.server.version(), "text/plain")
        else:
            self.send_error(404)

    def _answer(self, text: str, kind: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal quiet."""
