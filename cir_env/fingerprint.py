"""What results depend on besides the policy: hashes and versions of problems, prompt, environment and grader."""

import hashlib
import json
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cir_env.dialects import DialectName, find_dialect
from cir_env.episode.prompts import QUESTION, Prompt, Template, find_prompt, find_system_prompt, render_messages
from cir_env.grading.grader import GRADER_VERSION
from cir_env.problems.benchmarks import PATCHES_VERSION, content_sha256
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

_GRADER = ("grading/*.py", "parsing.py", "dialects.py")


def fingerprint(
    sets: Mapping[str, ProblemSet],
    prompt: Prompt,
    system_prompt: str | None = None,
    dialect: DialectName = "fence",
    *,
    unpinned: Collection[str] = (),
) -> dict[str, Any]:
    """Return the hashes and versions under which results of the same policy compare, as JSON-serializable data.

    Args:
        sets: Problem sets by name.
        prompt: As for `cir_env.env.CodeMathEnv`.
        system_prompt: As for `cir_env.env.CodeMathEnv`.
        dialect: As for `cir_env.env.CodeMathEnv`.
        unpinned: Names of sets whose problems are not those of a pinned SHA-256.

    >>> sorted(fingerprint({}, "cir"))
    ['environment', 'grader', 'patches', 'problems', 'prompt', 'unpinned']
    """
    template, system = find_prompt(prompt), find_system_prompt(system_prompt)
    asked = [Problem(id="", statement=QUESTION, answer="")]
    if not isinstance(template, Template):  # a function may write something else for each problem
        asked += [problem for problems in sets.values() for problem in problems]
    prompts = [render_messages(template, problem, system, find_dialect(dialect)) for problem in asked]
    return {
        "problems": {name: content_sha256(problems) for name, problems in sets.items()},
        "unpinned": sorted(unpinned),
        "prompt": _sha256("".join(map(json.dumps, prompts)).encode()),
        "environment": {"id": "CodeMath-v0", "version": _version("cir-env"), "sha256": _sources("**/*.py")},
        "patches": PATCHES_VERSION,
        "grader": {
            "version": GRADER_VERSION,
            "math-verify": _version("math-verify"),
            "sympy": _version("sympy"),
            "sha256": _sources(*_GRADER),
        },
    }


def _sources(*patterns: str) -> str:
    folder = Path(__file__).parent
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return _sha256(b"".join(str(file.relative_to(folder)).encode() + file.read_bytes() for file in files))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return None
