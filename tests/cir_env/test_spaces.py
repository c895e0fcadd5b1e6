"""The text space: any string, cheap, equal by length, and correct in all of Gymnasium's vector environments."""

import multiprocessing
import pickle
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Text, flatten, unflatten
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import create_empty_array, create_shared_memory

from cir_env.errors import OptionError
from cir_env.spaces import UnicodeText

ODD_TEXTS = ["", "a", "line\n\tcode", "\0", "√π 数 🙂", "\ud800", "x" * 100]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_every_string_is_in_the_space(text: str) -> None:
    assert text in UnicodeText()


@pytest.mark.parametrize("other", [b"x", 3, None, ["x"], np.array(["x"])])
def test_other_types_are_not_in_the_space(other: object) -> None:
    assert other not in UnicodeText()


def test_a_length_is_counted_in_characters_and_included() -> None:
    space = UnicodeText(max_length=3)
    assert "数🙂x" in space
    assert "1234" not in space


@pytest.mark.parametrize("max_length", [2.0, "3", None, True])
def test_a_length_that_is_not_an_integer_is_rejected(max_length: Any) -> None:
    with pytest.raises(OptionError, match=rf"^Expect `max_length` to be an integer, got {max_length!r}\.$"):
        UnicodeText(max_length)


def test_a_negative_length_is_rejected() -> None:
    with pytest.raises(OptionError, match=r"^Expect `max_length` to be at least 0, got -1\.$"):
        UnicodeText(-1)


def test_spaces_are_equal_if_their_lengths_are() -> None:
    assert UnicodeText(5, seed=1) == UnicodeText(5, seed=2)
    assert UnicodeText(5) != UnicodeText(6)
    assert UnicodeText() != Text(5)
    assert (repr(UnicodeText()), repr(UnicodeText(5))) == ("UnicodeText()", "UnicodeText(max_length=5)")


@pytest.mark.parametrize("copy", [deepcopy, lambda space: pickle.loads(pickle.dumps(space))])
def test_copies_are_equal_and_continue_sampling_alike(copy: Callable[[UnicodeText], UnicodeText]) -> None:
    space = UnicodeText(50, seed=3)
    twin = copy(space)
    assert twin == space
    assert [twin.sample() for _ in range(5)] == [space.sample() for _ in range(5)]


def test_construction_and_pickling_are_cheap() -> None:
    begin = time.process_time()
    assert len(pickle.dumps([UnicodeText() for _ in range(100)])) < 20_000
    assert time.process_time() - begin < 0.5


def test_samples_are_in_the_space_and_follow_the_seed() -> None:
    space = UnicodeText(10, seed=7)
    samples = [space.sample() for _ in range(50)]
    assert all(sample in space for sample in samples)
    assert len(set(samples)) > 30
    space.seed(7)
    assert [space.sample() for _ in range(50)] == samples


def test_masks_are_rejected() -> None:
    with pytest.raises(OptionError, match=r"^Expect no `mask` and no `probability`: this space has no character"):
        UnicodeText().sample(mask=(1, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "√x\n", "\ud800🙂"])
def test_flattening_gives_code_points_and_can_be_undone(text: str) -> None:
    space = UnicodeText(6)
    flat = flatten(space, text)
    assert unflatten(space, flat) == text
    assert [chr(code) for code in flat[: len(text)]] == list(text)


def test_an_empty_array_consists_of_empty_texts() -> None:
    assert create_empty_array(UnicodeText(), n=2) == ("", "")


class Echo(gymnasium.Env[str, str]):
    """Observes its action."""

    observation_space = UnicodeText(100)
    action_space = UnicodeText()

    def reset(self, **_: Any) -> tuple[str, dict[str, Any]]:
        return "start", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return action, 0.0, False, False, {}


@pytest.mark.parametrize("shared_memory", [True, False])
def test_asynchronous_vectors_carry_every_text(shared_memory: bool) -> None:
    envs = AsyncVectorEnv([Echo, Echo], shared_memory=shared_memory, context="forkserver")
    try:
        assert envs.reset()[0] == ("start", "start")
        for pair in zip(ODD_TEXTS, reversed(ODD_TEXTS), strict=True):
            assert envs.step(pair)[0] == pair  # type: ignore[arg-type]
    finally:
        envs.close()


def test_synchronous_vectors_carry_every_text() -> None:
    envs = SyncVectorEnv([Echo] * len(ODD_TEXTS))
    envs.reset()
    assert envs.step(ODD_TEXTS)[0] == tuple(ODD_TEXTS)  # type: ignore[arg-type]


def test_shared_memory_needs_a_length() -> None:
    with pytest.raises(OptionError, match=r"^Expect a `max_length` for text in shared memory, got none. Set one"):
        create_shared_memory(UnicodeText(), n=2, ctx=multiprocessing)


def test_the_character_set_is_every_character_without_a_list() -> None:
    space = UnicodeText()
    assert "🙂" in space.character_set
    assert "ab" not in space.character_set
    assert space.character_list[955] == "λ"
    assert space.character_list[97:100] == ["a", "b", "c"]
    assert len(space.character_set) == len(space.character_list) == sys.maxunicode + 1
