"""The claims about the results that come with the project."""

import runpy
from pathlib import Path


def test_every_claim_holds() -> None:
    told: list[str] = []
    check = runpy.run_path(str(Path(__file__).parents[1] / "results" / "check.py"))["check"]
    assert check(told.append), told
    assert len(told) == 24
