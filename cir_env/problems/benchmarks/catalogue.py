"""Lists the problems that have a name."""

from cir_env.problems.benchmarks.known import BENCHMARKS, Benchmark

_SOURCES = """\
Other problems (--env.problems plays their test split; --names FILE all of it)
  products, arithmetic, mixed, multi_block
  multi_block:trails, multi_block:ledgers
  multi_block:readings, multi_block:sequences
                                  generated here, without limit
  reasoning_gym, reasoning_gym:TASK
                                  generated; needs the extra problems
  still3, dapo, gsm8k             from the hub; needs the extra hub
  hub:OWNER/NAME?statement=FIELD&answer=FIELD
                                  from the hub; needs the extra hub
  FILE.jsonl, .json, .csv, .parquet
                                  yours; .parquet needs the extra parquet
  dapo+still3, dapo*3+mixed       the union of several, or a weighted mixture"""


def catalogue() -> str:
    """Return the named problem sets as text of at most 80 columns.

    >>> max(map(len, catalogue().splitlines())) <= 80
    True
    """
    lines = [
        "Benchmarks (--names NAME ...)",
        "  from files in --benchmarks FOLDER, or in the folder of CIR_BENCHMARKS;",
        "  or from the hub with --benchmarks hub, which needs the extra hub",
        "",
        f"  {'name':16}  problems  pinned  file",
        *(line for benchmark in BENCHMARKS.values() for line in _lines(benchmark)),
        "",
        "  pinned: whether SHA-256 fixes the problems. Where it does not, the one of what",
        "  was loaded is printed, and recorded in the run's manifest.",
        "",
        *_SOURCES.splitlines(),
    ]
    return "\n".join(lines)


def _lines(benchmark: Benchmark) -> list[str]:
    hub = benchmark.hub
    where = "not on the hub" if hub is None else ", ".join(filter(None, (f"hub: {hub.name}", hub.config)))
    loose = " (not pinned)" if hub is not None and benchmark.sha256 and not hub.is_pinned else ""
    pinned = "yes" if benchmark.sha256 else "no"
    return [
        f"  {benchmark.name:16}  {benchmark.n_problems:8,}  {pinned:6}  {benchmark.file}",
        f"  {'':16}  {where}{loose}",
    ]
