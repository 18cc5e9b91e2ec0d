"""Which source files are the user's own, and a digest of those behind a function."""

import ast
import hashlib
import importlib.util
import inspect
import itertools
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

OURS = ("metaprune", "orchestrator", "workloads", "reports")
INSTALLED = frozenset({"site-packages", "dist-packages"})


def digest_of_sources(module: ModuleType, named: str) -> str:
    """16 hexadecimal digits over the source of a module and of all own modules that it or `named` imports.

    A module that is compiled, or built into Python, counts by its name.
    """
    imported = own_sources([named, module.__name__])
    imported.pop(module.__name__, None)
    try:
        own = inspect.getsource(module)
    except (OSError, TypeError):
        own = module.__name__
    text = "".join([own, *(imported[name] for name in sorted(imported))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def own_sources(names: Iterable[str]) -> dict[str, str]:
    """Source by name of these modules and of what they import, directly or not, as far as it is the user's own."""
    sources: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = own_file(name)
        if path is not None and name not in sources:
            sources[name] = path.read_text(encoding="utf-8")
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            waiting += imported_names(sources[name], package)
    return sources


def own_file(name: str) -> Path | None:
    """The file of a module, if there is such a module and it is the user's own; imports nothing."""
    first, *others = itertools.accumulate(name.split("."), "{}.{}".format)
    if first in OURS or first in sys.builtin_module_names or first == "__main__":
        return None
    spec = importlib.util.find_spec(first)
    for part in others:
        folders = spec and spec.submodule_search_locations
        spec = PathFinder.find_spec(part, folders) if folders else None
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    return None if is_installed(path) or path.suffix != ".py" else path


def is_installed(path: Path) -> bool:
    """Whether a file or folder is Python's or that of an installed package."""
    return path.is_relative_to(sysconfig.get_path("stdlib")) or not INSTALLED.isdisjoint(path.parts)


def shadowed_file(name: str) -> Path | None:
    """A file of the user's of this module's name, where Python has imported one of its own or an installed one."""
    module = sys.modules.get(name)
    if "." in name or module is None or name in OURS:
        return None
    imported = getattr(module, "__file__", None)
    if imported and not is_installed(Path(imported)):
        return None
    files = [Path(folder) / f"{name}.py" for folder in sys.path]
    return next((file for file in files if not is_installed(file) and file.is_file()), None)


def imported_names(source: str, package: str) -> Iterator[str]:
    """What a module's source imports anywhere: modules, packages around them, and names that may be modules."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            yield from itertools.accumulate(name.split("."), "{}.{}".format)
