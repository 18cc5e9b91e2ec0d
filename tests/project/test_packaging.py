"""What the package promises: its version, its lowest dependencies, and what an installed copy holds."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

PACKAGES = ("metaprune", "orchestrator", "workloads", "reports")

OF_USERS = {"huggingface_hub", "timm", "transformers"}  # who names a network of theirs has them; or a sentence says so


def constraints(name: str) -> dict[str, Version]:
    """The versions that a file of constraints sets, by package."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / ".ci" / name).read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def lowest(requirements: list[str]) -> dict[str, Version]:
    """By package, the version from which on it is promised to do."""
    found: dict[str, Version] = {}
    for requirement in map(Requirement, requirements):
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement
        found[canonicalize_name(requirement.name)] = Version(bound.version)
    return found


def test_the_lowest_versions_that_are_promised_are_those_that_are_tested() -> None:
    promised = lowest(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["onnx"])
    assert constraints("constraints-lowest.txt") == promised


def test_ci_installs_versions_that_are_promised() -> None:
    promised = PROJECT["dependencies"] + [r for rs in PROJECT["optional-dependencies"].values() for r in rs]
    pinned = constraints("constraints.txt")
    for requirement in map(Requirement, promised):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is None or version in requirement.specifier, requirement
    assert not {"torch", "torchvision"} & pinned.keys(), "each machine has the build that fits its processors"


def test_every_file_that_names_the_version_names_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changes, re.MULTILINE)
    assert newest
    assert {str(citation["version"]), newest[1]} == {PROJECT["version"]}


def test_everything_that_is_imported_is_declared() -> None:
    """By the names that the four packages import at the top of any of their modules or functions."""
    provides = metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    optional = {canonicalize_name(Requirement(r).name) for rs in PROJECT["optional-dependencies"].values() for r in rs}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            names = re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE)
            for name in set(names) - set(PACKAGES) - sys.stdlib_module_names:
                if name in provides and name not in OF_USERS:  # a line of prose in a docstring is no import
                    distributions = {canonicalize_name(found) for found in provides[name]}
                    assert distributions & (declared | optional), f"{path}: {name}"


def test_a_wheel_holds_every_file_that_the_packages_need(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling (extra dev)")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    needed = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in needed if "__pycache__" not in path.parts} <= held
    assert "reports/page/templates/report.css" in held
    assert "orchestrator/experiments/quickstart.yaml" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert {name.partition("/")[0] for name in held} == {*PACKAGES, f"metaprune-{PROJECT['version']}.dist-info"}
