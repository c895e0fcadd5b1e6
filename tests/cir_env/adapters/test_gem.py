"""GEM's own environments, vector environments and wrappers; `test_conformance` plays whole episodes."""

from typing import TYPE_CHECKING, Any

import pytest
from clients import OUTSIDE
from fakes import fakes, products

if TYPE_CHECKING:
    import gem as library

gem: "library" = pytest.importorskip("gem", reason=OUTSIDE["gem"])
pytest.importorskip("cir_env.adapters.gem")  # registers the environment
ARGUMENTS: dict[str, Any] = fakes() | {"problems": products(3)}


def test_a_vector_environment_gives_each_environment_its_own_seed() -> None:
    envs = gem.make_vec(["codemath:v0"] * 4, seed=1, **ARGUMENTS)
    prompts, _ = envs.reset()
    assert len(set(prompts)) > 1
    assert gem.make_vec(["codemath:v0"] * 4, seed=1, **ARGUMENTS).reset()[0] == prompts
    _, rewards, terminated, _, _ = envs.step([r"\boxed{6}"] * 4)
    assert all(terminated)
    assert set(rewards) <= {1.0, -1.0}


def test_a_spawned_environment_is_of_the_same_kind_or_in_the_same_state() -> None:
    env = gem.make("codemath:v0", **ARGUMENTS)
    _, info = env.reset(seed=2)
    _, _, _, _, after = env.spawn(same_state=True).step(r"\boxed{1}")
    assert after["problem_id"] == info["problem_id"]
    assert env.spawn(problems=products(1)).reset()[1]["problem_id"] == "product-2"
    assert env.step(r"\boxed{1}")[2]  # the copy's step was not this one's
