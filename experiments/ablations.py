r"""The two ablations of the paper that break a rule of the trainer on purpose.

`StopStringRules` end a turn at the stop string, as pipelines do that hand texts on; `FeedbackRules` train on what the
environment wrote. Both reintroduce known errors, so the trainer itself has no such switch::

    Trainer(config, rules=FeedbackRules())
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from agents.core.types import Completion, Trajectory
from agents.engines.base import Scanner
from agents.rollout.episode import KeptTokens, TurnRules

_BLOCK = re.compile(r"```python.*?```", re.DOTALL)


class StopStringRules(TurnRules):
    """A turn ends at the first closing fence, wherever in its line it stands, and its text is encoded again."""

    def scanner(self, scanner: Scanner | None) -> Scanner | None:
        """Return a scanner for the stop string where the environment has one for exact blocks."""
        return None if scanner is None else StopString()

    def completed(self, completion: Completion) -> Completion:
        """Cut off the text behind the stop string, of which the last token may hold some."""
        if completion.finish_reason != "boundary":
            return completion
        return replace(completion, text=completion.text[: stop_end(completion.text)])

    def keep(
        self, completion: Completion, kept_chars: int, encode: Callable[[str], list[int]], *, ended: bool
    ) -> KeptTokens:
        """Return the encoding of the kept text as if it had been sampled."""
        return encode_again(completion, kept_chars, encode, ended=ended)


class FeedbackRules(TurnRules):
    """Every token after the prompt is trained on, feedback included.

    The engine reports no log-probabilities of feedback, so ``sampling/*`` mean nothing and importance sampling must be
    off. Lengths, ``tools/*`` and accuracies are those of what was sampled.
    """

    def trained(self, trajectory: Trajectory) -> Trajectory:
        """Return the trajectory with an action mask that is True on everything after the prompt."""
        count = len(trajectory.token_ids)
        return replace(
            trajectory,
            action_mask=tuple(place >= trajectory.prompt_length for place in range(count)),
            policy_versions=(max(trajectory.policy_versions),) * count,
        )


def stop_end(text: str) -> int | None:
    r"""Return where the first closing fence after an opening one ends, wherever in its line it stands.

    >>> stop_end("```python\nprint(1)\n```\nSo"), stop_end("```python\nprint('```')"), stop_end("```python\nprint(1)")
    (22, 20, None)
    """
    found = _BLOCK.search(text)
    return None if found is None else found.end()


class StopString:
    """A scanner that ends a turn at the stop string."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, piece: str) -> int | None:
        """Take the next piece of text; return where the stop string ends, once it has come."""
        self._text += piece
        return stop_end(self._text)


def encode_again(
    completion: Completion, kept_chars: int, encode: Callable[[str], list[int]], *, ended: bool
) -> KeptTokens:
    """Return the encoding of the kept text as if it had been sampled, as a pipeline does that hands texts on.

    Log-probabilities keep their places, whatever tokens now stand there; 0 behind the last.

    Args:
        completion: What the engine sampled.
        kept_chars: How much of its text the environment keeps.
        encode: Turns text to token ids.
        ended: Whether the episode ends here; a closing end-of-sequence token then stays.

    Returns:
        The tokens, all of them trained on; ``cuts`` is 1 if they differ from those that were sampled.
    """
    end = len(completion.token_ids) - (completion.finish_reason == "stop")
    encoded = encode(completion.text[:kept_chars])
    token_ids = (*encoded, *(completion.token_ids[end:] if ended else ()))
    count = len(token_ids)
    return KeptTokens(
        token_ids=token_ids,
        action_mask=(True,) * count,
        logprobs=(*completion.logprobs, *[0.0] * count)[:count],
        policy_versions=completion.policy_versions[:1] * count,
        cuts=int(tuple(encoded) != completion.token_ids[:end]),
    )
