"""The benchmarks that have a name: their files, fields, flaws, and fingerprints."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from cir_env.problems.rows import Fields

PATCHES_VERSION: Final = 2
"""Increases whenever a patch is added, removed or changed; the pinned SHA-256 of its benchmark changes with it."""

_USUAL: Final = Fields()
GSM8K_FIELDS: Final = {"statement": "question", "answer_after": "####"}
_GSM8K: Final = Fields.of(GSM8K_FIELDS)
Row = Mapping[str, Any]
Prepare = Callable[[Row], "Row | str"]
"""Turns a row into one with the usual fields, or says why the row is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A correction of one flaw in a benchmark file; it does nothing if the file is already correct."""

    row: int
    """Index of the row in the file, from 0."""
    part: Literal["statement", "answer"]
    """The part to correct; of a prepared row, if the benchmark has a `prepare`."""
    old: str
    """The wrong text, whose first occurrence is replaced."""
    new: str
    """The replacement."""
    why: str
    """What is wrong, and how that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Rows that are dropped, since nobody's answer could be judged by them."""

    rows: frozenset[int]
    """Indices of the rows in the file, from 0."""
    why: str
    """What is wrong, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubData:
    """A benchmark on the hub."""

    name: str
    """The data set, ``owner/name``."""
    fields: Fields = _USUAL
    """Which of its columns hold the parts of a problem."""
    config: str | None = None
    """Its configuration, if it has several."""
    split: str = "test"
    """Its split."""
    is_pinned: bool = True
    """Whether its problems are those of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark, as a file and on the hub."""

    name: str
    """Its name in tables."""
    file: str
    """Name of its JSON Lines file."""
    fields: Fields = _USUAL
    """Which fields of the file hold the parts of a problem."""
    n_problems: int
    """Number of problems."""
    sha256: str | None = None
    """`content_sha256` of the patched problems; None if no file was at hand to pin."""
    hub: HubData | None = None
    """Where it is on the hub, if it is there."""
    prepare: Prepare | None = None
    """Turns its rows, of the file and of the hub, into rows with the usual fields."""
    patches: tuple[Patch, ...] = ()
    """Corrections of its known flaws."""
    drops: tuple[Drop, ...] = ()
    """Rows of the file that are dropped."""


def _svamp(row: Row) -> Row:
    """Join a story and its question, which the file keeps apart; some stories lack a full stop.

    >>> _svamp({"Body": "He has 1 and 1", "Question": "How many?", "Answer": 2.0})["problem"]
    'He has 1 and 1. How many?'
    """
    if not {"Body", "Question", "Answer"} <= row.keys():
        return row
    story, question, answer = str(row["Body"]).strip(), str(row["Question"]).strip(), row["Answer"]
    problem = f"{story}{'' if story.endswith(('.', '?', '!', ',')) else '.'} {question}".strip()
    whole = isinstance(answer, float) and answer.is_integer()
    return {**row, "problem": problem, "answer": int(answer) if whole else answer}


def _olympiad(row: Row) -> Row | str:
    """Join the answers of a list, and compare with the tolerance that a row may have.

    >>> _olympiad({"question": "x?", "final_answer": ["4.2"], "error": "1e-1"})["answer_type"]
    'number?abs_tol=1e-1'
    """
    if any(name.startswith("image") and value is not None for name, value in row.items()):
        return "an image"
    answers = row.get("final_answer")
    if not answers:
        return "a proof, without an answer"
    error = str(row.get("error") or "")
    has_tolerance = re.fullmatch(r"\d*\.?\d+(e-?\d+)?", error) and len(answers) == 1
    statement = " ".join(filter(None, (row.get("context"), row.get("question"))))
    return {
        **{name: value for name, value in row.items() if name not in ("solution", "final_answer", "answer_type")},
        "problem": statement,
        "answer": ", ".join(map(str, answers)),
        "answer_type": f"number?abs_tol={error}" if has_tolerance else "math",
    }


def _college(row: Row) -> Row | str:
    """Drop answers in whole sentences, which no other wording equals."""
    answer = str(row.get("answer", ""))
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", " ", answer, flags=re.DOTALL) if "$" in answer else ""
    return "an answer in a sentence" if len(re.findall(r"[A-Za-z]{2,}", prose or _plain(answer))) >= 4 else row


def _plain(answer: str) -> str:
    """Return an answer without formulas as text; "" if it is LaTeX."""
    return "" if "\\" in answer else answer


# fmt: off
_UNREADABLE_COLLEGE: Final = frozenset(
    {
        11, 145, 281, 324, 428, 521, 544, 548, 575, 634, 790, 839, 840, 907, 1052, 1067, 1080, 1095, 1108, 1129,
        1158, 1230, 1280, 1284, 1443, 1449, 1462, 1493, 1633, 1763, 2081, 2163, 2176, 2185, 2190, 2198, 2301, 2320,
        2330, 2338, 2360, 2374, 2389, 2395, 2399, 2402, 2423, 2426, 2438, 2444, 2446, 2452, 2453, 2457, 2460, 2462,
        2463, 2493, 2494, 2576, 2595, 2596, 2612, 2617, 2663, 2664, 2677, 2685, 2690, 2715, 2738, 2740, 2745, 2761,
        2802,
    }
)
# fmt: on
"""Such as series with an ellipsis, and inverses and products of matrices with the equation around them."""
_OLYMMATH = Fields(answer="solution", id="unique_id")
_OLYMMATH_HUB = Fields(answer="answer", id="unique_id")
_ALL = (
    Benchmark(
        name="AIME24",
        file="AIME24.jsonl",
        fields=Fields(answer="solution", boxed=True),
        n_problems=30,
        sha256="2ca83cf83f7f30ddd83ebf59af7c7880f579a27370687741eb50c5d449fce15f",
        hub=HubData(name="math-ai/aime24", fields=Fields(answer="solution", boxed=True)),
        patches=(
            Patch(
                row=28,
                part="statement",
                old="outside of $S$, it is externally",
                new="inside of $S$, it is internally",
                why="Both radii are defined by the outer position, so their difference is 0; in the contest "
                "(2024 AIME II, problem 8) the torus rests on the inside first.",
            ),
        ),
    ),
    Benchmark(
        name="AIME25",
        file="AIME25.jsonl",
        fields=Fields(answer="solution", boxed=True),
        n_problems=30,
        sha256="8d6a81306a198501411c0fd9dde73e2948f1dece0e1145b22330bfad3a8b234d",
        hub=HubData(name="math-ai/aime25", fields=Fields()),
    ),
    Benchmark(
        name="AMC23",
        file="amc23.jsonl",
        fields=Fields(answer="solution"),
        n_problems=40,
        sha256="d54a8db19b70f64746692a91a3a852cd03d2f5f6f00adaaf9827888ea02de1a9",
        hub=HubData(name="math-ai/amc23", fields=Fields(statement="question")),
        patches=(
            Patch(
                row=30,
                part="statement",
                old="$$43$ dollars",
                new="$\\$43$",
                why="An unescaped dollar sign opens a displayed formula that never closes.",
            ),
        ),
    ),
    Benchmark(
        name="MATH500",
        file="MATH_OAI.jsonl",
        fields=Fields(answer="solution", boxed=True, id="unique_id"),
        n_problems=500,
        sha256="108425accfd3c712a24b3b4086d3ab5da9b102abc5341be34c067764a9893483",
        hub=HubData(name="HuggingFaceH4/MATH-500", fields=Fields(answer="solution", boxed=True, id="unique_id")),
    ),
    Benchmark(
        name="OlymMATH-EN-EASY",
        file="OlymMATH-EN-EASY.jsonl",
        fields=_OLYMMATH,
        n_problems=100,
        sha256="28b5327fc79ca996c76f8262ae83fc9c58e674c94ebe6c727239a78d9a132ebf",
        hub=HubData(name="RUC-AIBOX/OlymMATH", config="en-easy", fields=_OLYMMATH_HUB),
    ),
    Benchmark(
        name="OlymMATH-EN-HARD",
        file="OlymMATH-EN-HARD.jsonl",
        fields=_OLYMMATH,
        n_problems=100,
        sha256="a8c21a01ee7c0f6799cd006b0f7e755c8234f38bb685cb3fad1458b0ab2376e6",
        hub=HubData(name="RUC-AIBOX/OlymMATH", config="en-hard", fields=_OLYMMATH_HUB),
        patches=(
            Patch(
                row=23,
                part="answer",
                old="2^2023",
                new="2^{2023}",
                why="As LaTeX it reads 2 squared, followed by 023.",
            ),
        ),
    ),
    Benchmark(
        name="AIME26",
        file="AIME26.jsonl",
        n_problems=30,
        hub=HubData(name="MathArena/aime_2026", fields=Fields(id="problem_idx"), split="train"),
    ),
    Benchmark(
        name="HMMT25",
        file="hmmt_feb_2025.jsonl",
        fields=Fields(id="problem_idx", subject="problem_type.0"),
        n_problems=30,
        hub=HubData(
            name="MathArena/hmmt_feb_2025", fields=Fields(id="problem_idx", subject="problem_type.0"), split="train"
        ),
    ),
    Benchmark(
        name="MATH",
        file="MATH.jsonl",
        fields=Fields(answer="solution", boxed=True, subject="type"),
        n_problems=5000,
        hub=HubData(
            name="DigitalLearningGmbH/MATH-lighteval", fields=Fields(answer="solution", boxed=True, subject="type")
        ),
    ),
    Benchmark(
        name="GSM8K",
        file="GSM8K.jsonl",
        fields=_GSM8K,
        n_problems=1319,
        sha256="6e94022d995cbce8c740d4acb44828e289a19355cdac7b364fd71adc8fb91973",
        hub=HubData(name="openai/gsm8k", config="main", fields=_GSM8K),
    ),
    Benchmark(
        name="SVAMP",
        file="svamp.jsonl",
        fields=Fields(id="ID", subject="Type"),
        n_problems=1000,
        sha256="b154e3f0984a4784b8d913be43b317bc3d8261595010107e257a080e85c25f56",
        hub=HubData(name="ChilleD/SVAMP", split="train+test", fields=Fields(id="ID", subject="Type"), is_pinned=False),
        prepare=_svamp,
        patches=(
            Patch(
                row=837,
                part="statement",
                old="How many old games do they have 3",
                new="How many old games do they have?",
                why="A digit stands in place of the question mark.",
            ),
        ),
    ),
    Benchmark(
        name="Minerva",
        file="minerva_math.jsonl",
        fields=Fields(answer="solution", boxed=True, id="idx", subject="type"),
        n_problems=271,
        sha256="0e6b250d0eaec575dc56b44ee12889014c66502272b73a047663de47e08c9552",
        hub=HubData(name="math-ai/minervamath", fields=Fields(statement="question")),
        patches=(
            Patch(
                row=49,
                part="answer",
                old="{-3./2}",
                new="{-3/2}",
                why="A decimal point without decimals is left from a program.",
            ),
        ),
        drops=(Drop(rows=frozenset({261}), why="an answer that the grader cannot read"),),
    ),
    Benchmark(
        name="OlympiadBench",
        file="olympiadbench.jsonl",
        fields=Fields(subject="subfield"),
        n_problems=675,
        sha256="e4850bd85a2c9f7cbd0a8142daacffbfb6518b391ecd13ef4687dfb4958427cf",
        hub=HubData(
            name="Hothan/OlympiadBench",
            config="OE_TO_maths_en_COMP",
            split="train",
            fields=Fields(subject="subfield"),
            is_pinned=False,
        ),
        prepare=_olympiad,
        patches=(
            Patch(
                row=31,
                part="answer",
                old=r"$\angle B E A_{1}=90$,$\angle A E B_{1}=90$",
                new=r"$90^{\circ}$",
                why="Both angles that it asks for are right angles; as equations the answer has no value.",
            ),
            Patch(
                row=96,
                part="answer",
                old="$t(0,4]$",
                new="$(0,4]$",
                why="A sign is lost between the variable and its interval.",
            ),
            Patch(
                row=194,
                part="answer",
                old="$221,$8$",
                new="$221$,$8$",
                why="A dollar sign is missing.",
            ),
        ),
    ),
    Benchmark(
        name="CollegeMath",
        file="college_math.jsonl",
        fields=Fields(statement="question", subject="data_topic"),
        n_problems=2509,
        sha256="7fc5f1bdeef4652a062b6837e946ade868ba19d102004cf1759c39c446ef2afe",
        prepare=_college,
        drops=(
            Drop(rows=_UNREADABLE_COLLEGE, why="an answer that the grader cannot read"),
            Drop(rows=frozenset({699, 1431}), why="an answer to another question"),
            Drop(rows=frozenset({125, 297, 778, 848}), why="half of a question"),
        ),
    ),
)

BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
"""All benchmarks by name."""
