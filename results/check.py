"""Recompute every table and claim of results/README.md from the Parquet files beside it; exit status 1 if one is wrong.

python results/check.py             # tells every claim, and every table that the README has differently
python results/check.py --tables    # prints the tables, in Markdown
"""

import sys
from collections.abc import Callable
from pathlib import Path

from claims import claims
from tables import sentences, tables

README = Path(__file__).with_name("README.md")


def check(tell: Callable[[str], object] = print) -> bool:
    """Tell every claim, and every table that the README has differently; whether all is as written."""
    found = list(claims())
    for sentence, value, holds in found:
        tell(f"{'holds ' if holds else 'BROKEN'} {value:+7.2f}  {sentence}")
    readme = README.read_text(encoding="utf-8")
    told = " ".join(readme.split())
    wrong = [table for table in tables() if table not in readme]
    wrong += [sentence for sentence in sentences() if sentence not in told]
    for part in wrong:
        tell(f"BROKEN          the README has this differently:\n{part}")
    return not wrong and all(holds for *_, holds in found)


if __name__ == "__main__":
    if "--tables" in sys.argv[1:]:
        print("\n\n".join(tables()))
    else:
        sys.exit(not check())
