"""A scripted OpenAI-compatible chat API on loopback, which fails in every way that it is told to."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-0123456789"
CLOSING = 5  # tokens of what closes a message and opens the next

Fault = Callable[["_Handler"], None]


def runs_code(text: str) -> str:
    """Run the last product as Python, or box the last output; write more than was asked for, as models do."""
    outputs = re.findall(r"```output\n(.*?)\n```", text, re.DOTALL)
    if outputs:
        return f"The answer is \\boxed{{{outputs[-1]}}}."
    a, b = ["0", "0", *re.findall(r"\d+", text)][-2:]
    return f"```python\nprint({a} * {b})\n```\n" + "```output\n-1\n```\nSo it is \\boxed{-1}." * 50


class ChatServer(ThreadingHTTPServer):
    """The server.

    Args:
        policy: What the model writes, from the text of all messages.
        continues: Whether it continues the assistant's message if it is asked to.
        extra: Whether it takes parameters beyond OpenAI's; if not, they are an error.
        counts: When a stream says how many tokens it has: "always", at its "end" or "never".
        key: The key that it asks for.
        port: Where it listens; 0: anywhere.
    """

    daemon_threads = True

    def __init__(
        self,
        *,
        policy: Callable[[str], str] = runs_code,
        continues: bool = True,
        extra: bool = True,
        counts: str = "always",
        key: str = KEY,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.policy, self.continues, self.extra, self.counts, self.key = policy, continues, extra, counts, key
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.models = ["scripted"]
        self.requests: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.fails: Callable[[dict[str, Any]], Fault | None] = lambda body: None
        self.finished = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent about clients that leave."""


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        fault = self.server.faults.pop(0) if self.server.faults else self.server.fails(body)
        if fault is not None:
            fault(self)
        elif self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.send(401, {"error": {"message": f"Incorrect key: {self.headers['Authorization']}"}})
        elif body["model"] not in self.server.models:
            self.send(404, {"error": {"message": "no such model"}})
        elif not self.server.extra and "top_k" in body:
            self.send(400, {"error": {"message": "Unrecognized request argument supplied: top_k", "param": "top_k"}})
        else:
            self.stream(body)

    def stream(self, body: dict[str, Any]) -> None:
        messages = body["messages"]
        text = self.server.policy("\n".join(message["content"] for message in messages))
        pieces = re.findall(r"(?s).{1,3}", text)
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        prompt = sum(len(message["content"]) + CLOSING for message in messages)
        prompt -= CLOSING * (self.server.continues and body.get("continue_final_message", False))
        self.begin("text/event-stream")
        for number, piece in enumerate(pieces[:limit], 1):
            usage = {"prompt_tokens": prompt, "completion_tokens": number} if self.server.counts == "always" else None
            self.event({"choices": [{"index": 0, "delta": {"content": piece}}], "usage": usage})
        reason = "length" if len(pieces) > limit else "stop"
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if self.server.counts != "never":
            usage = {"prompt_tokens": prompt, "completion_tokens": min(len(pieces), limit)}
            self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
        self.server.finished += 1

    def send(self, status: int, body: Any, kind: str = "application/json", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, data: dict[str, Any]) -> None:
        whole = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "scripted", **data}
        self.chunk(b"data: " + json.dumps(whole).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


# ------------------------------------------------------------------------------------------------------------ faults


def status(code: int, message: str = "try again", **headers: str) -> Fault:
    """Answer with an error; ``Retry_After="1"`` is a header."""
    return lambda handler: handler.send(code, {"error": {"message": message}}, **headers)


def html(code: int = 200) -> Fault:
    """Answer with a page."""
    return lambda handler: handler.send(code, "<html><body>Welcome</body></html>", kind="text/html")


def cut(handler: _Handler) -> None:
    """End in the middle of a stream."""
    handler.begin("text/event-stream")
    handler.event({"choices": [{"index": 0, "delta": {"content": "half of it"}}]})
    handler.close_connection = True


def finished_early(handler: _Handler) -> None:
    """End a stream in good order, but without a reason to finish."""
    handler.begin("text/event-stream")
    handler.event({"choices": [{"index": 0, "delta": {"content": "half of it"}}]})
    handler.chunk(b"")


def malformed(handler: _Handler) -> None:
    """Send what is no JSON."""
    handler.begin("text/event-stream")
    handler.chunk(b'data: {"choices": [{"delta": \n\n')
    handler.chunk(b"")


def misshapen(handler: _Handler) -> None:
    """Send JSON that is no reply."""
    handler.begin("text/event-stream")
    handler.event({"choices": [{"index": 0, "delta": {"content": 7}}]})
    handler.chunk(b"")


def failing(handler: _Handler) -> None:
    """Report an error within a stream."""
    handler.begin("text/event-stream")
    handler.chunk(b'data: {"error": {"message": "out of memory"}}\n\n')
    handler.chunk(b"")


def slow(seconds: float) -> Fault:
    """Wait before a good answer."""

    def wait(handler: _Handler) -> None:
        time.sleep(seconds)
        handler.send(500, {"error": {"message": "too late"}})

    return wait


def dripping(pieces: int, pause_s: float) -> Fault:
    """Answer well, with a pause after each piece."""

    def drip(handler: _Handler) -> None:
        handler.begin("text/event-stream")
        for number in range(pieces):
            finish = "stop" if number == pieces - 1 else None
            handler.event({"choices": [{"index": 0, "delta": {"content": "drip"}, "finish_reason": finish}]})
            time.sleep(pause_s)
        handler.chunk(b"data: [DONE]\n\n")
        handler.chunk(b"")

    return drip


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    """Serve in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
