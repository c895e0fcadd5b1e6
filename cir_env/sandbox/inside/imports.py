"""Hides installed packages from `import` where namespaces do not hide their files."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from cir_env.sandbox.inside.namespaces import site_folders


class VisibleFinder(PathFinder):
    """Finds modules as usual, but of the installed packages only those that blocks may read.

    Without it, the import of a package that Landlock protects is a PermissionError, which libraries that try optional
    packages do not expect.
    """

    hidden: tuple[str, ...] = ()
    """Folders with installed packages."""
    visible: frozenset[str] = frozenset()
    """What blocks may read in these folders."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module; None for one that is hidden."""
        spec = super().find_spec(fullname, path, target)
        if spec is None or path is not None:
            return spec
        places = list(spec.submodule_search_locations or [spec.origin or ""])
        seen = [place for place in places if place in cls.visible or not place.startswith(cls.hidden)]
        return spec if seen else None


def show_only(readable: Sequence[str]) -> None:
    """Hide the installed packages that are not among the readable paths."""
    VisibleFinder.hidden = tuple(site_folders())
    VisibleFinder.visible = frozenset(readable)
    sys.meta_path[:] = [VisibleFinder if finder is PathFinder else finder for finder in sys.meta_path]
