r"""`CodeMath-v0` for lm-evaluation-harness: ``pip install -e ".[lm-eval]"``.

A task, whose file ``examples/lm_eval/codemath.yaml`` contains the arguments of `CodeMathEnv`::

    lm_eval --model hf --model_args pretrained=Qwen/Qwen2.5-1.5B-Instruct --apply_chat_template \
        --tasks codemath --include_path examples/lm_eval

The models of the harness generate one turn: either it answers, or the last line that its block prints is the answer.
An `EpisodeModel` plays whole episodes with any of them::

    task = CodeMath({"arguments": {"problems": "products", "split": "test"}})
    model = EpisodeModel(HFLM(pretrained="Qwen/Qwen2.5-1.5B-Instruct"), task)
    results = lm_eval.evaluate(model, {"tasks": {"codemath": task}}, apply_chat_template=True)

The metrics are ``acc`` and ``infrastructure_error``. A sample with an infrastructure error has no accuracy, and the
harness warns that the metrics differ in their number of samples. No right answer is in a sample.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cir_env.adapters.tools import rows
from cir_env.env import CodeMathEnv
from cir_env.episode.prompts import join_messages
from cir_env.problems.problem import Problem
from cir_env.vector import CodeMathVectorEnv

try:
    from datasets import Dataset  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import mean
    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask
except ImportError:
    raise ImportError('This adapter needs the library lm_eval: pip install -e ".[lm-eval]".') from None


class Transcript(str):
    """What an `EpisodeModel` generates: all turns and feedback of an episode."""

    info: Mapping[str, Any]
    """The environment's info at the end."""


class CodeMath(ConfigurableTask):
    """The task of a problem set.

    Args:
        config: The harness's configuration of a task, and ``arguments``: those of `CodeMathEnv`.
    """

    VERSION = 0

    def __init__(self, config: Mapping[str, Any]) -> None:
        own = {name: value for name, value in config.items() if name not in ("class", "arguments")}
        self.arguments: dict[str, Any] = dict(config.get("arguments", {}))
        self._env = CodeMathEnv(**self.arguments)
        default = {
            "task": "codemath",
            "test_split": "test",
            "num_fewshot": 0,
            "generation_kwargs": {"until": ["```output"], "max_gen_toks": 1024, "do_sample": False},
            "metric_list": [],
        }
        super().__init__(config=default | own)

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Set the data set."""
        self.dataset = {"test": Dataset.from_list(list(rows(**{"dialect": "fence"} | self.arguments)))}

    def fewshot_context(
        self,
        doc: Mapping[str, Any],
        num_fewshot: int,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[..., str] | None = None,
        **_: Any,
    ) -> str:
        """Return the environment's prompt; worked examples are a matter of its argument `prompt`."""
        system = [{"role": "system", "content": system_instruction}] if system_instruction else []
        messages = [*system, *doc["prompt"]]
        return chat_template(messages) if apply_chat_template and chat_template else join_messages(messages)

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: object = None) -> str:
        """Return the prompt as text."""
        return join_messages(doc["prompt"])

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: object = None) -> str:
        """Return nothing: the environment keeps the right answer."""
        return ""

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        """Return the metrics of a sample, whose single turn is played now."""
        (text,) = results
        info = text.info if isinstance(text, Transcript) else self._play(doc["problem_index"], text)
        accuracy = {"acc": float(info["correct"])} if info["reward_valid"] else {}
        return accuracy | {"infrastructure_error": float(not info["reward_valid"])}

    def _play(self, problem_index: int, turn: str) -> Mapping[str, Any]:
        self._env.reset(options={"problem_index": problem_index})
        _, _, terminated, truncated, info = self._env.step(turn)
        if terminated or truncated:
            return info
        printed = info["feedback"].rpartition("\n```\n")[0].rpartition("\n")[2]
        return self._env.step(rf"\boxed{{{printed}}}")[4]

    def aggregation(self) -> dict[str, Any]:
        """Return how to aggregate each metric."""
        return {"acc": mean, "infrastructure_error": mean}

    def higher_is_better(self) -> dict[str, bool]:
        """Return the direction of each metric."""
        return {"acc": True, "infrastructure_error": False}


class EpisodeModel:
    """A model of the harness whose generations are whole episodes of a task.

    Args:
        model: Any model that generates text; everything else is asked of it, such as its chat template.
        task: The task that all requests belong to.
    """

    def __init__(self, model: LM, task: CodeMath) -> None:
        self._model, self._task = model, task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate_until(self, requests: Sequence[Instance]) -> list[Transcript]:
        """Play one episode per request, all at once; in each round the model writes one turn of each."""
        arguments = self._task.arguments | {"observation": "feedback"}
        envs = CodeMathVectorEnv(len(requests), batch_size=len(requests), autoreset_mode="Disabled", **arguments)
        playing = list(range(len(requests)))
        envs.send_reset(playing, options=[{"problem_index": request.doc["problem_index"]} for request in requests])
        envs.recv()
        transcripts = [Transcript()] * len(requests)
        while playing:
            turns = self._model.generate_until([_behind(requests[i], transcripts[i]) for i in playing])
            _, _, terminated, truncated, infos = envs.step(turns, playing)  # in the order of `playing`
            for k, (i, turn) in enumerate(zip(playing, turns, strict=True)):
                transcripts[i] = Transcript(transcripts[i] + turn[: infos["kept_chars"][k]] + infos["feedback"][k])
                transcripts[i].info = {name: infos[name][k] for name in ("correct", "reward_valid")}
            playing = [i for i, over in zip(playing, terminated | truncated, strict=True) if not over]
        envs.close()
        return transcripts


def _behind(request: Instance, transcript: str) -> Instance:
    """Return the request to continue a transcript."""
    context, options = request.args
    return Instance(request.request_type, request.doc, (context + transcript, options), request.idx, request.metadata)


def program(problem: Problem) -> str:
    """Write a prompt that asks for a program, for models that generate one turn."""
    return (
        "Write a Python program that prints the answer to the following problem, and nothing else, in one ```python "
        f"block.\n{problem.statement}"
    )
