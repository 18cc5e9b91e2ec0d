"""Fusing networks into one: alignment by optimal transport or weight matching, then the average."""

from workloads.fusion.fuse import average, fuse

__all__ = ["average", "fuse"]
