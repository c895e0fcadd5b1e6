r"""Train on questions about CSV files, which are no mathematics: all of it is arguments of `CodeMath-v0`.

Each problem carries a file. Blocks read it with pandas, and a verifier of this module compares words and amounts.

python examples/csv_questions.py --model Qwen/Qwen2.5-1.5B-Instruct --steps 50

The same with the flags of train.py, after ``python examples/csv_questions.py --steps 0``:

PYTHONPATH=examples python train.py quickstart --env.problems runs/csv/questions.jsonl --env.packages pandas \
    --env.prompt csv_questions:prompt --env.answer-type csv_questions:same_value
"""

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cir_env import Problem

REGIONS = ("north", "south", "east", "west")
PRODUCTS = ("lamp", "desk", "chair", "shelf", "rug")
Sale = Mapping[str, Any]


def _count(rng: random.Random, sales: list[Sale]) -> tuple[str, str]:
    region = rng.choice(REGIONS)
    return f"How many orders came from the {region}?", str(sum(sale["region"] == region for sale in sales))


def _revenue(rng: random.Random, sales: list[Sale]) -> tuple[str, str]:
    product = rng.choice(PRODUCTS)
    cents = sum(sale["units"] * sale["cents"] for sale in sales if sale["product"] == product)
    return f"What did all orders of the product {product} cost together?", f"{cents / 100:.2f}"


def _favourite(rng: random.Random, sales: list[Sale]) -> tuple[str, str]:
    region = rng.choice(REGIONS)
    units: Counter[str] = Counter()
    for sale in sales:
        units[sale["product"]] += sale["units"] * (sale["region"] == region)
    most = max(units.values())
    first = min(product for product in units if units[product] == most)
    return f"Of which product did the {region} order most units (of several, the first by name)?", first


QUESTIONS: tuple[Callable[[random.Random, list[Sale]], tuple[str, str]], ...] = (_count, _revenue, _favourite)


EXAMPLE = """For example:

Question: How many orders were of the product sofa? (orders_7.csv)
```python
import pandas as pd
orders = pd.read_csv("orders_7.csv")
print((orders["product"] == "sofa").sum())
```
```output
12
```
The answer is \\boxed{12}."""


def rows(size: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the rows of a problem set: a question, its answer, and a file."""
    rng = random.Random(seed)
    for ask in islice(cycle(QUESTIONS), size):
        sales: list[Sale] = [
            {
                "region": rng.choice(REGIONS),
                "product": rng.choice(PRODUCTS),
                "units": rng.randint(1, 20),
                "cents": rng.randint(500, 20_000),
            }
            for _ in range(rng.randint(20, 60))
        ]
        lines = [f"{sale['region']},{sale['product']},{sale['units']},{sale['cents'] / 100:.2f}" for sale in sales]
        question, answer = ask(rng, sales)
        name = f"orders_{rng.randrange(10**6):06}.csv"
        yield {
            "problem": f"{question} ({name})",
            "answer": answer,
            "subject": ask.__name__.lstrip("_"),
            "files": {name: "\n".join(["region,product,units,unit_price", *lines, ""])},
        }


def prompt(problem: Problem) -> str:
    """Show the columns, how to answer, and an answer to another question."""
    ((name, text),) = problem.files.items()
    return (
        f"The file {name} lists orders; its columns are {text.partition(chr(10))[0]}. To look at it, write Python in a "
        "```python block, which is run: pandas is installed, and you see what the block prints. Then put the answer, "
        f"a word or a number, in \\boxed{{}}. {EXAMPLE}\n\nQuestion: {problem.statement}"
    )


def same_value(gold: str, answer: str) -> bool:
    r"""Whether an answer is the right word, in any case, or the right amount, to the cent.

    >>> same_value("lamp", r"\text{Lamp}"), same_value("1234.50", "1,234.5"), same_value("7", "8")
    (True, True, False)
    """
    plain = re.sub(r"\\text\{(.*)\}", r"\1", answer).strip()
    try:
        return abs(float(plain.replace(",", "")) - float(gold)) < 0.005
    except ValueError:
        return plain.casefold() == gold.casefold()


def main(*, model: str = "tiny", steps: int = 3, size: int = 300, output_dir: Path = Path("runs/csv")) -> float:
    """Write the problems and train a model on them; return the mean reward of the last step, 0 without steps."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`
    from agents import Trainer  # heavy, and the grader imports this module for its verifier
    from agents.config.training import EnvConfig, PPOConfig, RolloutConfig, TrainConfig
    from agents.core.files import read_metrics

    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows(size)))
    if not steps:
        return 0.0
    config = TrainConfig(
        model=model,
        output_dir=output_dir / "run",
        max_steps=steps,
        autocast=model != "tiny",
        env=EnvConfig(
            problems=str(path),
            packages=("pandas",),
            prompt="csv_questions:prompt",
            answer_type="csv_questions:same_value",
        ),
        rollout=RolloutConfig(num_problems=4, num_generations=8, max_model_len=1024),
        ppo=PPOConfig(learning_rate=1e-5),
    )
    trainer = Trainer(config)
    trainer.train()
    trainer.close()
    rewards = [row["reward"] for row in read_metrics(config.output_dir / "metrics.jsonl") if "reward" in row]
    print(f"mean reward: {rewards[0]:+.2f} in the first step, {rewards[-1]:+.2f} in the last")
    return float(rewards[-1])


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
