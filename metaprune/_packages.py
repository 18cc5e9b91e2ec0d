"""Which code runs: metaprune's own packages, whatever lies in the user's folders.

Python looks for modules in the folder of a script, and Ray's workers in the driver's working folder, before it looks
where packages are installed. A folder `reports/` or a file `plan.py` or `statistics.py` of the user's would then stand
in for a package of ours, or of Python's that ours import.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGES = ("metaprune", "orchestrator", "workloads", "reports")
ROOT = str(Path(__file__).resolve().parents[1])


class OwnPackages(MetaPathFinder):
    """Finds metaprune's packages beside each other in one folder, and nothing else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where the package of this name lies; None for every other name."""
        return PathFinder.find_spec(name, [ROOT]) if path is None and name in PACKAGES else None


def find_own_packages_first() -> None:
    """Let `import orchestrator` and the like mean the packages beside this one from now on."""
    if not any(isinstance(finder, OwnPackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnPackages())


def users_folders() -> list[str]:
    """The entries of `sys.path` that Python put first: the current folder or that of the script."""
    first = sys.path[:1]
    return [entry for entry in first if entry in ("", str(Path.cwd()), script_folder()) and entry != ROOT]


def script_folder() -> str | None:
    """The folder of the script that this process runs, if it runs one."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return str(Path(file).resolve().parent) if file else None


@contextmanager
def searched_last(folders: Collection[str]) -> Iterator[None]:
    """Search these entries of `sys.path` after all others for the length of a block."""
    before = list(sys.path)
    sys.path[:] = [*(entry for entry in before if entry not in folders), *folders]
    moved = list(sys.path)
    try:
        yield
    finally:
        if sys.path == moved:
            sys.path[:] = before
