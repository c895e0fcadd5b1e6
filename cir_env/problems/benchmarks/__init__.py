"""The benchmarks: their files, fields, patches for known flaws, and fingerprints.

This project contains no benchmark data: it is read from a folder that you name, or from the hub. The loaded problems
are checked against a pinned SHA-256 where there is one, so that results always refer to the same problems.
docs/reference/benchmarks.md describes the origin and the known flaws of each benchmark.
"""

from cir_env.problems.benchmarks.catalogue import catalogue
from cir_env.problems.benchmarks.known import BENCHMARKS, PATCHES_VERSION, Benchmark, Drop, HubData, Patch
from cir_env.problems.benchmarks.loading import HUB, content_sha256, is_pinned, load_benchmark

__all__ = [
    "BENCHMARKS",
    "HUB",
    "PATCHES_VERSION",
    "Benchmark",
    "Drop",
    "HubData",
    "Patch",
    "catalogue",
    "content_sha256",
    "is_pinned",
    "load_benchmark",
]
