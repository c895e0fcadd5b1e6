"""Rows for SkyRL and what its environment keeps; `test_conformance` plays whole episodes."""

import pytest
from fakes import fakes, products

pytest.importorskip("skyrl_gym")


def test_a_row_has_the_environments_prompt_and_no_answer() -> None:
    from cir_env.adapters.skyrl import CodeMath, dataset_rows

    *_, row = dataset_rows(problems=products(2))
    assert set(row) == {"prompt", "env_class", "split", "problem_index", "problem_id"}
    env = CodeMath(fakes() | {"problems": products(2)}, row)
    assert env.init(row["prompt"])[0] == row["prompt"]


def test_what_follows_a_block_is_dropped_from_the_action() -> None:
    from cir_env.adapters.skyrl import CodeMath

    env = CodeMath(fakes() | {"problems": products(1)}, {"problem_index": 0})
    block = "```python\nprint(2 * 3)\n```\n"
    result = env.step(block + r"It is \boxed{7}.")
    assert (result["postprocessed_action"], result["done"]) == (block, False)
    assert result["observations"] == [{"role": "user", "content": "```output\n6\n```\n"}]
    env.close()
