"""Samples in the forms of other programs: lm-evaluation-harness's results, a model card of the hub, plain JSONL.

Written is what lm-evaluation-harness 0.4 writes with ``--log_samples``: ``results_DATE.json`` and, for each set,
``samples_SET_DATE.jsonl`` with one row a problem, all of its samples in ``resps``. Read are such sample files, and
JSONL whose fields are named; what comes out are rows for :mod:`agents.evaluation.regrade`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from agents.core.samples import Sample, SamplesError
from agents.evaluation.regrade import NOT_JUDGED, ReadAnswer, accuracy, read_json_lines, write_rows
from agents.evaluation.tables import write_json

METRIC = "exact_match"
_FILTER = "none"
_GSM8K = re.compile(r"####\s*(.+?)\s*$")
_STATEMENTS = ("problem", "question", "Problem", "Question")


# --- out: lm-evaluation-harness ---------------------------------------------------------------------------------


def write_lm_eval(folder: Path, rows: Sequence[Sample], *, model: str, version: str) -> list[Path]:
    """Write rows as lm-evaluation-harness does; return the files.

    Samples that could not be judged are left out, and so are problems of which none could be.

    Args:
        folder: A folder below it, named by the model, gets the files.
        rows: Judged samples of any number of sets.
        model: The model's name.
        version: What ``versions`` says of each set, such as the grader's version.

    Raises:
        SamplesError: No sample is judged, or the files are there already.
    """
    name = re.sub(r'["<>:/|\\?*\[\]]+', "__", model)
    date = time.strftime("%Y-%m-%dT%H-%M-%S")
    docs = {task: list(_docs(found)) for task, found in _by_set(rows).items()}
    if not docs:
        raise SamplesError("Expect at least one sample that is judged, got none: regrade them first.")
    paths = {task: folder / name / f"samples_{_file_name(task)}_{date}.jsonl" for task in docs}
    for task, path in paths.items():
        write_rows(path, docs[task])
    results = {
        "results": {task: _figures(task, found) for task, found in docs.items()},
        "group_subtasks": {task: [] for task in docs},
        "configs": {task: _configuration(task, found, version) for task, found in docs.items()},
        "versions": dict.fromkeys(docs, version),
        "n-shot": dict.fromkeys(docs, 0),
        "higher_is_better": {task: {METRIC: True} for task in docs},
        "n-samples": {task: {"original": len(found), "effective": len(found)} for task, found in docs.items()},
        "config": {"model": model, "model_args": {}, "batch_size": None, "device": None, "limit": None},
        "date": time.time(),
        "task_hashes": {
            task: _hash("".join(doc["doc_hash"] + doc["prompt_hash"] + doc["target_hash"] for doc in found))
            for task, found in docs.items()
        },
        "model_source": "cir-env",
        "model_name": model,
        "model_name_sanitized": name,
    }
    summary = folder / name / f"results_{date}.json"
    write_json(summary, results)
    return [summary, *paths.values()]


def whole_text(row: Sample) -> str:
    """Return a sample as one text, what the environment inserted included."""
    return "".join(turn["text"] + turn["feedback"] for turn in row["turns"])


def _by_set(rows: Iterable[Sample]) -> dict[str, list[Sample]]:
    sets: dict[str, list[Sample]] = {}
    for row in rows:
        if row["reward_valid"] and row["reason"] != NOT_JUDGED:
            sets.setdefault(row["set"], []).append(row)
    return sets


def _docs(rows: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    problems: dict[int, list[Sample]] = {}
    for row in rows:
        problems.setdefault(row["problem_index"], []).append(row)
    for index, samples in sorted(problems.items()):
        samples.sort(key=lambda row: row["sample"])
        first = samples[0]
        doc = {name: first[name] for name in ("problem_id", "problem", "answer", "subject", "level")}
        texts = [whole_text(row) for row in samples]
        yield {
            "doc_id": index,
            "doc": doc,
            "target": str(first["answer"]),
            "arguments": {"gen_args_0": {"arg_0": first["problem"], "arg_1": {}}},
            "resps": [texts],
            "filtered_resps": texts if len(texts) == 1 else [texts],
            "filter": _FILTER,
            "metrics": [METRIC],
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(first["problem"]),
            "target_hash": _hash(str(first["answer"])),
            METRIC: fmean(row["correct"] for row in samples),
        }


def _figures(task: str, docs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [doc[METRIC] for doc in docs]
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
    return {
        "name": task,
        "alias": task,
        "sample_len": len(docs),
        f"{METRIC},{_FILTER}": fmean(values),
        f"{METRIC}_stderr,{_FILTER}": error,
    }


def _configuration(task: str, docs: Sequence[Mapping[str, Any]], version: str) -> dict[str, Any]:
    return {
        "task": task,
        "output_type": "generate_until",
        "doc_to_text": "{{problem}}",
        "doc_to_target": "{{answer}}",
        "num_fewshot": 0,
        "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
        "repeats": max(len(doc["resps"][0]) for doc in docs),
        "metadata": {"version": version},
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.-]+", "-", task)


# --- out: the hub -----------------------------------------------------------------------------------------------


def model_card_metadata(rows: Sequence[Sample], *, model: str, datasets: Mapping[str, str]) -> str:
    """Return the metadata of a model card (YAML) with the accuracy of each set as a ``model-index``.

    Args:
        rows: Judged samples.
        model: The model's name.
        datasets: The hub's names of sets; a set that is missing goes by its own.

    Raises:
        SamplesError: No sample is judged.
    """
    from huggingface_hub import EvalResult, ModelCardData

    sets = _by_set(rows)
    if not sets:
        raise SamplesError("Expect at least one sample that is judged, got none: regrade them first.")
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=datasets.get(name, name),
            dataset_name=name,
            metric_type="accuracy",
            metric_name=f"avg@{1 + max(row['sample'] for row in found)}",
            metric_value=round(100 * (accuracy(found) or 0.0), 2),
        )
        for name, found in sets.items()
    ]
    return ModelCardData(model_name=model, eval_results=results).to_yaml() + "\n"


# --- in ---------------------------------------------------------------------------------------------------------


def read_lm_eval(path: Path, read_answer: ReadAnswer) -> list[Sample]:
    """Read a ``samples_*.jsonl`` of lm-evaluation-harness as rows.

    Where a row has one response, its first metric is taken for the verdict so far. Of a problem that several filters
    were applied to, the first row counts.

    Args:
        path: The file.
        read_answer: Finds the right answer in a target that is a whole solution.

    Raises:
        SamplesError: The file is none, or of a task whose responses are no texts.
    """
    rows: list[Sample] = []
    seen: set[int] = set()
    name = re.sub(r"^samples_|_\d{4}-\d\d-\d\dT.*$", "", path.stem)
    for number, row in enumerate(read_json_lines(path), 1):
        lacking = [field for field in ("doc_id", "doc", "target", "resps") if field not in row]
        if lacking:
            raise SamplesError(
                f"{path}, line {number}: Expect a sample of lm_eval --log_samples, got no {lacking[0]!r}."
            )
        if not isinstance(row["doc_id"], int):
            raise SamplesError(f"{path}, line {number}: Expect 'doc_id' to be a number, got {row['doc_id']!r}.")
        if row["doc_id"] in seen:
            continue
        seen.add(row["doc_id"])
        texts = row["resps"][0] if isinstance(row["resps"], list) and row["resps"] else None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise SamplesError(
                f"{path}, line {number}: Expect texts in 'resps', got {str(texts)[:40]}: is it multiple choice?"
            )
        metrics = row.get("metrics")
        metric = str(metrics[0]) if isinstance(metrics, list) and metrics else ""
        verdict = row.get(metric) if len(texts) == 1 else None
        doc = row["doc"] if isinstance(row["doc"], dict) else {}
        rows += [
            _row(
                set_name=name,
                index=row["doc_id"],
                sample=sample,
                problem_id=str(doc.get("problem_id") or doc.get("id") or f"{name}-{row['doc_id']}"),
                subject=doc.get("subject"),
                level=doc.get("level"),
                problem=_statement(row, doc),
                answer=_gold(str(row["target"]), read_answer),
                text=text,
                verdict=None if verdict is None else verdict == 1,
            )
            for sample, text in enumerate(texts)
        ]
    return rows


def read_plain(path: Path, *, problem: str, answer: str, completion: str) -> list[Sample]:
    """Read JSONL with named fields as rows; rows of the same problem are its samples.

    Args:
        path: The file.
        problem: Name of the field with the statement.
        answer: Name of the field with the right answer.
        completion: Name of the field with what a model wrote, or with a list of such texts.

    Raises:
        SamplesError: A row lacks a field, or has something else in it.
    """
    rows: list[Sample] = []
    places: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(read_json_lines(path), 1):
        texts = row.get(completion)
        texts = [texts] if isinstance(texts, str) else texts
        for name, value in ((problem, row.get(problem)), (answer, row.get(answer)), (completion, texts)):
            if value is None:
                raise SamplesError(
                    f"{path}, line {number}: Expect the field {name!r}, got {', '.join(sorted(row)) or 'none'}."
                )
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise SamplesError(f"{path}, line {number}: Expect a text or a list of texts in {completion!r}.")
        place = places.setdefault((str(row[problem]), str(row[answer])), [len(places), 0])
        for text in texts:
            rows.append(
                _row(
                    set_name=path.stem,
                    index=place[0],
                    sample=place[1],
                    problem_id=str(row.get("id") or f"{path.stem}-{place[0]}"),
                    subject=row.get("subject"),
                    level=row.get("level"),
                    problem=str(row[problem]),
                    answer=str(row[answer]),
                    text=text,
                    verdict=None,
                )
            )
            place[1] += 1
    return rows


def _statement(row: Mapping[str, Any], doc: Mapping[str, Any]) -> str:
    found = next((doc[name] for name in _STATEMENTS if doc.get(name)), None)
    if found is None:  # then it is the prompt, in the layout of today or of before 0.4.2
        arguments = row.get("arguments")
        try:
            found = arguments["gen_args_0"]["arg_0"] if isinstance(arguments, dict) else arguments[0][0]  # type: ignore[index]
        except (IndexError, KeyError, TypeError):
            found = ""
    return str(found)


def _gold(target: str, read_answer: ReadAnswer) -> str:
    r"""Return the right answer of a target, which may be a whole solution.

    >>> _gold("Two and two. #### 4", lambda texts: None), _gold(" 4 ", lambda texts: None)
    ('4', '4')
    """
    boxed = read_answer([target])
    if boxed is not None:
        return boxed.strip()
    found = _GSM8K.search(target)
    return found[1] if found else target.strip()


def _row(
    *,
    set_name: str,
    index: int,
    sample: int,
    problem_id: str,
    subject: Any,
    level: Any,
    problem: str,
    answer: str,
    text: str,
    verdict: bool | None,
) -> Sample:
    """Return a row of which only the text is known; what is counted in it is 0."""
    return {
        "set": set_name,
        "problem_index": index,
        "sample": sample,
        "problem_id": problem_id,
        "subject": None if subject is None else str(subject),
        "level": None if level is None else str(level),
        "problem": problem,
        "turns": [{"text": text, "feedback": "", "status": None, "finish_reason": "stop"}],
        "predicted": None,
        "answer": answer,
        "reason": NOT_JUDGED if verdict is None else "judged elsewhere",
        "reward": 1.0 if verdict else -1.0,
        "reward_valid": True,
        "correct": bool(verdict),
        "terminated": True,
        "truncated": False,
        "void": False,
        "interactions": 0,
        "sampled_tokens": 0,
        "feedback_tokens": 0,
        "boundary_cuts": 0,
    }
