"""What lies in the user's working folder does not stand in for metaprune's packages, or for those that they import."""

import subprocess
import sysconfig
import venv
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import yaml

from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
PACKAGES = ("metaprune", "orchestrator", "workloads", "reports")
COMMAND = "#!{python}\nimport sys\nfrom metaprune.__main__ import main\nsys.exit(main())\n"
SCRIPT = """\
from metaprune import Experiment, __version__, load, run

result = run(Experiment.load("tiny.yaml"), out="from-python")
assert result.complete, result.failed
print(__version__, len(load("from-python")))
"""


def installed(folder: Path, kind: str) -> Path:
    """A virtual environment with metaprune in it, as a copy or as a path to this checkout; its `bin`."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if kind == "editable":
        (site / "editable.pth").write_text(f"{ROOT}\n")
    else:
        for package in PACKAGES:
            copytree(ROOT / package, site / package, ignore=ignore_patterns("__pycache__"))
    command = folder / "bin" / "metaprune"
    command.write_text(COMMAND.format(python=folder / "bin" / "python"))
    command.chmod(0o755)
    return folder / "bin"


def litter(folder: Path, kind: str) -> None:
    """Fill a folder with what stands in the way of careless imports."""
    folder.mkdir()
    grid = {"groups": [0], "sparsities": [0.5], "methods": ["conventional"]}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"pruning": grid}))
    (folder / "script.py").write_text(SCRIPT)
    if kind == "folders":
        for name in ("reports", "orchestrator", "workloads", "metaprune"):
            (folder / name).mkdir()
            (folder / name / "notes.txt").write_text("mine")
    else:
        for name in ("reports", "orchestrator", "workloads", "plan", "statistics"):
            (folder / f"{name}.py").write_text(f"raise RuntimeError('{name} of the user')\n")


@pytest.mark.slow
@pytest.mark.parametrize("lying_there", ["folders", "files"])
@pytest.mark.parametrize("install", ["editable", "copied"])
def test_command_workers_and_the_import_are_immune(tmp_path: Path, install: str, lying_there: str) -> None:
    programs, folder = installed(tmp_path / "environment", install), tmp_path / "work"
    litter(folder, lying_there)
    for command in (
        [programs / "metaprune", "run", "tiny.yaml", "--out", "from-command"],
        [programs / "python", "script.py"],
        [programs / "python", "-c", SCRIPT],
        [programs / "python", "-m", "metaprune", "list", "results"],
    ):
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
        assert ended.returncode == 0, (command, ended.stdout[-2000:], ended.stderr[-2000:])
    assert (folder / "from-command" / "report" / "index.html").is_file()
