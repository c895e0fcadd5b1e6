"""Finds installed packages, and what they need, for blocks to import."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cir_env.errors import OptionError, did_you_mean
from cir_env.sandbox.inside.namespaces import package_paths

EXTRA = ("scipy", "networkx", "pandas")
"""The packages of the extra `sandbox-packages`."""


def check_package(name: str) -> None:
    """Reject a package that is not installed.

    >>> check_package("PyYAML")
    Traceback (most recent call last):
    cir_env.errors.OptionError: Expect in `packages` the name of an installed package, as blocks import it, got \
'PyYAML'. Did you mean 'yaml'?
    """
    if not name.isidentifier() or not package_paths([name]):
        installed = packages_distributions()
        imported_as = {dist.lower(): package for package in sorted(installed) for dist in installed[package]}
        hint = did_you_mean(imported_as.get(name.lower(), name), installed)
        if name in EXTRA:
            hint = " Install it with: pip install -e '.[sandbox-packages]'"
        raise OptionError(
            f"Expect in `packages` the name of an installed package, as blocks import it, got {name!r}.{hint}"
        )


def paths_to_import(names: Sequence[str]) -> tuple[str, ...]:
    """Return the files and folders that importing packages needs: theirs, and those of their dependencies.

    Dependencies are those in the metadata of the installed distributions whose markers apply here. Optional ones
    (extras) count only where another dependency asks for them.

    Args:
        names: Import names of installed packages.

    >>> {"sympy", "mpmath"} <= {os.path.basename(path) for path in paths_to_import(["sympy"])}
    True
    """
    distributions = packages_distributions()
    packages = defaultdict(set)
    for package, providers in distributions.items():
        for provider in providers:
            packages[canonicalize_name(provider)].add(package)
    todo = [Requirement(provider) for name in names for provider in distributions.get(name, ())]
    seen: set[tuple[str, str]] = set()
    imported, beside = dict.fromkeys(names), dict[str, None]()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        wanted = {(name, extra) for extra in ("", *requirement.extras)} - seen
        seen |= wanted
        if not wanted:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # A broken installation: the import says what is missing.
            continue
        imported.update(dict.fromkeys(filter(str.isidentifier, sorted(packages[name]))))
        beside.update(dict.fromkeys(_beside(found)))
        todo += [needed for _, extra in sorted(wanted) for needed in _requirements(found, extra)]
    return tuple(dict.fromkeys([*package_paths(list(imported)), *beside]))


def _requirements(found: Distribution, extra: str) -> Iterator[Requirement]:
    for text in found.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # An old distribution; pip ignores them as well.
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _beside(found: Distribution) -> Iterator[str]:
    """Yield the folders beside a package that it may read: its metadata, and shared libraries that it bundles."""
    tops = {file.parts[0] for file in found.files or ()}
    for top in sorted(tops):
        path = str(found.locate_file(top))
        if top.endswith((".dist-info", ".libs")) and os.path.isdir(path):
            yield path
