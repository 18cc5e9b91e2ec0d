"""Inside a floor imports go down only, and floors know only what they may know."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the ground up; a room imports itself and what stands before it.
ROOMS = {
    "workloads": [
        ("messages", "moved", "own_code", "isolation"),
        ("validated",),
        ("calibration", "recipes"),
        ("allocations",),
        ("scope",),
        ("config", "plugins"),
        ("data",),
        ("structure",),
        ("networks",),
        ("measuring",),
        ("compression",),
        ("fusion",),
        ("training",),
    ],
    "orchestrator": [
        ("storage",),
        ("settings",),
        ("worker",),
        ("tracking",),
        ("stages",),
        ("planning",),
        ("running",),
        ("card",),
        ("ending", "export", "printing", "status", "watching"),
        ("cli",),
        ("submit", "slurm", "__main__"),
    ],
    "reports": [
        ("names",),
        ("results", "published"),
        ("statistics",),
        ("figures", "tables"),
        ("exhibits",),
        ("page",),
    ],
}
FLOORS = {
    "workloads": {"workloads"},
    "reports": {"reports", "workloads", "orchestrator.storage", "orchestrator.settings"},
    "orchestrator": {"orchestrator", "workloads", "metaprune"},
}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Names and files of all modules of a package."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, those for types alone included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ROOMS)
def test_imports_go_down_only(package: str) -> None:
    level = {room: number for number, rooms in enumerate(ROOMS[package]) for room in rooms}
    for name, path in modules(package):
        if name == package:  # the package itself offers what lies above it, when asked
            continue
        own = name.split(".")[1]
        for other in imported(path):
            if other.startswith(f"{package}.") and (room := other.split(".")[1]) in level:
                assert level[room] <= level[own], f"{name} imports {other}"


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_has_a_level(package: str) -> None:
    level = {room for rooms in ROOMS[package] for room in rooms}
    found = {name.split(".")[1] for name, _ in modules(package) if name != package}
    assert found == level


@pytest.mark.parametrize("package", FLOORS)
def test_floors_know_only_what_they_may_know(package: str) -> None:
    ours = {"metaprune", "orchestrator", "workloads", "reports"}
    for name, path in modules(package):
        for other in imported(path):
            first, *rest = other.split(".")
            if first in ours and name != "orchestrator.cli":
                known = {first, ".".join([first, *rest[:1]])}
                assert known & FLOORS[package], f"{name} imports {other}"
            if package != "orchestrator":
                assert first != "ray", name
            if package == "reports":
                assert first != "torch", name
