"""From a run's Parquet to tables and figures. Needs neither Ray nor PyTorch."""

from reports.results import load

__all__ = ["load"]
