"""What an exhibit is: named figures or tables that are made from the tables of runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from reports.results.selection import Tables
from reports.statistics import AmbiguousRows
from reports.tables import Table

Item = tuple[str, Figure | Table]
Make = Callable[[Tables], Iterator[Item]]


@dataclass(frozen=True)
class Exhibit:
    """What a report can show.

    Attributes:
        shows: one sentence.
        needs: what an experiment must have for it.
        make: yields names and figures or tables; nothing where the data is missing.
        experiment: a built-in one that makes the data.
    """

    shows: str
    needs: str
    make: Make
    experiment: str = "quickstart"

    def made(self, tables: Tables) -> tuple[list[Item], str]:
        """The named figures and tables, and why there are none where rows cannot be told apart."""
        try:
            return list(self.make(tables)), ""
        except AmbiguousRows as error:
            return [], str(error)
