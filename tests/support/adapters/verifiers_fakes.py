"""Episodes in the rollout loop of verifiers, with a scripted model."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from fakes import products

if TYPE_CHECKING:
    import verifiers.v1 as vf

Message = dict[str, Any]


def call(arguments: str, name: str = "python") -> Message:
    """Return a message that calls a tool."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def run(code: object) -> Message:
    return call(json.dumps({"code": code}))


def say(text: str) -> Message:
    return {"role": "assistant", "content": text}


@contextmanager
def model(write: Callable[[int], Message]) -> Iterator[tuple[str, list[Message]]]:
    """Serve a model that writes a message by how many it has written; yield its address and its requests."""
    requests: list[Message] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            message = write(sum(message["role"] == "assistant" for message in body["messages"]))
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", requests
        finally:
            server.shutdown()
            thread.join()


def play(
    turns: Sequence[Message] | Callable[[int], Message],
    *,
    episodes: int = 1,
    concurrent: bool = True,
    agent: dict[str, Any] | None = None,
    **arguments: Any,
) -> "tuple[list[vf.Trace], list[Message]]":
    """Play episodes of the problem 2 * 3; return their traces and the requests to the model.

    Args:
        turns: The model's messages in every episode, the last one again and again, or as for `model`.
        episodes: How many episodes.
        concurrent: Whether they run at the same time.
        agent: Configuration of the agent.
        arguments: Those of the environment.
    """
    import verifiers.v1 as vf  # heavy

    arguments = {"problems": products(1)} | arguments
    write = turns if callable(turns) else lambda number: turns[min(number, len(turns) - 1)]

    async def main(url: str) -> list[vf.Trace]:
        taskset = {"id": "cir-env-verifiers", "task": {"arguments": arguments}}
        env = vf.load_environment(vf.resolve_env_config({"taskset": taskset, "agent": agent or {}}))
        context = vf.ModelContext(model="scripted", client=vf.EvalClientConfig(base_url=url, api_key_var="NONE"))
        async with env.serving():
            (task,) = env.taskset
            runs = [env.run_episode(task, context) for _ in range(episodes)]
            played = await asyncio.gather(*runs) if concurrent else [await run for run in runs]
        return [trace for episode in played for trace in episode.traces]

    with model(write) as (url, requests):
        return asyncio.run(main(url)), requests
