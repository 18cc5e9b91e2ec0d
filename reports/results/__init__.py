"""Reading the results of runs: their tables, the names that tell variants apart, and the rows of each exhibit."""

from reports.results.reading import load

__all__ = ["load"]
