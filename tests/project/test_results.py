"""The claims about the results that come with the project."""

import runpy
import shutil
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results"


def test_every_claim_and_table_is_as_written() -> None:
    told: list[str] = []
    check = runpy.run_path(str(RESULTS / "check.py"))["check"]
    assert check(told.append), told
    assert len(told) == 78


def test_a_number_that_is_not_in_the_results_is_told(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path / "results")
    readme = tmp_path / "results" / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(
        text.replace("| folding | 84.3 | +0.5 |", "| folding | 94.3 | +0.5 |").replace("82.2 %", "92.2 %"),
        encoding="utf-8",
    )
    told: list[str] = []
    assert not runpy.run_path(str(tmp_path / "results" / "check.py"))["check"](told.append)
    assert sum(line.startswith("BROKEN") for line in told) == 2
