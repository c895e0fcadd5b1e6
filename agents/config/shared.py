"""The flags that ``train.py`` and ``evaluate.py`` have in common."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from agents.core.errors import expect

Dtype = Literal["auto", "float32", "bfloat16"]
"""dtype of weights that sample; auto: bfloat16 where the device computes in it, else float32."""

Dialect = Literal["fence", "hermes", "llama3"]
"""How the policy writes code."""

Template = Literal["chat", "raw"]
"""Whether prompts are put into the model's chat template."""
CHAT_TEMPLATE_KWARGS = '{"enable_thinking": false}'
"""Default variables of the chat template."""


def check_template_kwargs(text: str, template: Template) -> str:
    """Return variables of a chat template, a JSON object, in one spelling.

    Raises:
        ConfigError: The text is no JSON object, or not the default although no chat template is used.

    >>> check_template_kwargs('{"enable_thinking":true}', "chat")
    '{"enable_thinking": true}'
    """
    name = "chat_template_kwargs"
    try:
        read: Any = json.loads(text)
    except ValueError:
        read = None
    expect(isinstance(read, dict), name, f"to be a JSON object such as {CHAT_TEMPLATE_KWARGS}", text)
    spelled = json.dumps(read, sort_keys=True)
    is_used = template == "chat" or spelled == CHAT_TEMPLATE_KWARGS
    expect(is_used, name, "unset beside `--template raw`, which uses no chat template", text)
    return spelled


def check_dialect(dialect: Dialect, template: Template) -> None:
    """Check that there is a chat template for tool calls.

    Raises:
        ConfigError: There is none.
    """
    has_tools = template == "chat" or dialect == "fence"
    expect(has_tools, "env.dialect", "fence beside `--template raw`, which uses no chat template", dialect)


@dataclass(frozen=True, kw_only=True)
class EnvArguments:
    """Which environment, and its arguments."""

    id: str = "cir_env:CodeMath-v0"
    """Gymnasium id of a text environment, or MODULE:ID. It gets the arguments that it accepts."""
    problems: str = "products"
    """Generator's or data set's name, .jsonl, .json, .csv or .parquet file, hub:NAME, or a mixture such as
    dapo*3+mixed."""
    test_share: float = 0.05
    """Share of a single file's problems that is held out from training: its test split. 0: none, 1: all."""
    answer_type: str | None = None
    """How all answers are compared, such as number?rel_tol=0.01, choice or module:function. None: as problems say."""
    unreadable: Literal["error", "exclude"] = "error"
    """Refuse problems whose right answer cannot be read, or exclude them with a warning."""
    prompt: str = "cir"
    """Prompt: a template's name, a .txt or .md file with {problem} in it, or module:function."""
    system_prompt: str | None = None
    """System message: a text, or a .txt or .md file. None: the prompt's own, if any."""
    dialect: Dialect = "fence"
    """How the policy writes code: fenced blocks, or tool calls as in Qwen 2.5 and 3 (hermes) or Llama 3.1 (llama3)."""
    stateful: bool = False
    """Let a block see what earlier blocks of the episode defined."""
    show_budget: bool = False
    """Tell the policy how many blocks will be run, and how many are left."""
    on_exhausted: Literal["silent", "tell", "end"] = "silent"
    """A block beyond the budget is ignored, is answered by a line that says so, or ends the episode."""
    time_limit_s: float = 5.0
    """CPU seconds that one block may take."""
    memory_limit_mb: int = 512
    """Memory in MB that one block may allocate."""
    max_output_chars: int = 400
    """Characters of an execution's result that the policy sees."""
    error_format: Literal["last_line", "full"] = "last_line"
    """How much of a failed block's traceback the policy sees."""
    packages: tuple[str, ...] = ()
    """Installed packages that blocks may import besides the standard library, numpy, scipy and sympy: names as in
    ``import``, separated by commas or spaces."""
    reward: str | None = None
    """module:function from an episode's record to a number. None: 1 for a right answer, else -1."""
    sandbox: str = "local"
    """Where code runs: local, unsafe, local?slots=32 (blocks at once), http://HOST:PORT (several with commas), or
    fusion+http://HOST:PORT."""

    def __post_init__(self) -> None:
        names = tuple(name for word in self.packages for name in word.replace(",", " ").split())
        object.__setattr__(self, "packages", names)
        expect(0 <= self.test_share <= 1, "env.test_share", "in [0, 1]", self.test_share)
        expect(0 < self.time_limit_s < float("inf"), "env.time_limit_s", "above 0 and finite", self.time_limit_s)
        for name in ("memory_limit_mb", "max_output_chars"):
            expect(getattr(self, name) >= 1, f"env.{name}", "of at least 1", getattr(self, name))
        is_function = self.reward is None or re.fullmatch(r"[\w.]+:[\w.]+", self.reward) is not None
        expect(is_function, "env.reward", "like 'module:function'", self.reward)
        expect(all(map(str.isidentifier, self.packages)), "env.packages", "as blocks import them", self.packages)

    @property
    def is_code_math(self) -> bool:
        """Whether it is this repository's environment."""
        return self.id in ("cir_env:CodeMath-v0", "CodeMath-v0")

    @property
    def reading(self) -> dict[str, Any]:
        """How the environment reads problems: some of its keyword arguments."""
        return {name: getattr(self, name) for name in ("test_share", "answer_type", "unreadable")}

    def kwargs(self, *, split: str) -> dict[str, Any]:
        """Return the keyword arguments of ``gymnasium.make``."""
        own = {field.name: getattr(self, field.name) for field in fields(EnvArguments) if field.name != "id"}
        return {**own, "split": split, "observation": "feedback"}


@dataclass(frozen=True, kw_only=True)
class EngineArguments:
    """What samples."""

    engine: str = "auto"
    """What samples: transformers, vllm, your own as module:function, or auto: vllm if it is installed and there is a
    GPU."""
    dtype: Dtype = "auto"
    """dtype of the weights that sample; auto: bfloat16 where the device computes in it, else float32."""
    max_num_seqs: int | None = None
    """Episodes that are sampled at once; each holds a row of the engine's cache. None: 64, on a GPU all of a step's, up
    to 512 in a process."""
    max_model_len: int = 512
    """Tokens of a whole episode, prompt included."""
    vllm_gpu_memory_utilization: float | None = None
    """Share of the GPU's memory that vLLM takes for weights and cache. None: what training leaves while it samples, or
    0.3 if it samples during the update."""

    tensor_parallel_size: int = 1
    """GPUs among which vLLM splits the weights. In training they are other GPUs than the trainer's, of one machine."""

    def __post_init__(self) -> None:
        rows, share = self.max_num_seqs, self.vllm_gpu_memory_utilization
        expect(rows is None or rows >= 1, "max_num_seqs", "of at least 1", rows)
        expect(share is None or 0 < share <= 1, "vllm_gpu_memory_utilization", "in (0, 1]", share)
        split = self.tensor_parallel_size
        expect(split >= 1, "tensor_parallel_size", "of at least 1", split)
        expect(
            split == 1 or self.engine in ("auto", "vllm"),
            "tensor_parallel_size",
            f"of 1 with the engine {self.engine}, which does not split a model",
            split,
        )
