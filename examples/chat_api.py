"""A language model served through an OpenAI-compatible chat API (vLLM, SGLang, llama.cpp, Ollama and others).

python examples/chat_api.py --url http://localhost:8000/v1 --model Qwen/Qwen2.5-1.5B-Instruct --problems products

The API key, if needed, is read from the environment variable OPENAI_API_KEY.
"""

import json
import os
import urllib.request

import gymnasium
import tyro

import cir_env  # noqa: F401


def complete(url: str, model: str, messages: list[dict[str, str]]) -> str:
    """Return the model's next message."""
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps({"model": model, "messages": messages, "max_tokens": 1024}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"},
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        return str(json.load(response)["choices"][0]["message"]["content"] or "")


def main(url: str, model: str, problems: str = "products", episodes: int = 5) -> float:
    """Play held-out problems, and return the share of right answers."""
    env = gymnasium.make("CodeMath-v0", problems=problems, split="test", observation="feedback")
    right = 0
    for seed in range(episodes):
        _, info = env.reset(seed=seed)
        messages = list(info["messages"])
        over = False
        while not over:
            text = complete(url, model, messages)
            feedback, _, terminated, truncated, info = env.step(text)
            messages += [{"role": "assistant", "content": text[: info["kept_chars"]]}]
            messages += [{"role": "user", "content": feedback}]
            over = terminated or truncated
        right += info["correct"]
        print(f"{info['problem_id']}: {info['predicted']} ({'right' if info['correct'] else info['answer']})")
    env.close()
    return right / episodes


if __name__ == "__main__":
    tyro.cli(main)
