"""From a run's Parquet to tables and figures. Needs neither Ray nor PyTorch.

`results` reads the tables of runs and names what differs, `statistics` compares, `figures` and `tables` hold the style
and the formats, `published` the paper's numbers, `exhibits` what a report can show, and `page` writes it.
"""

from reports.results import load

__all__ = ["load"]
