"""Fusing networks into one: alignment by optimal transport or weight matching, then the average; and lines between."""

from workloads.fusion.fuse import average, fuse
from workloads.fusion.line import Line, above_line

__all__ = ["Line", "above_line", "average", "fuse"]
