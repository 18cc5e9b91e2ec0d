"""Training networks, in a way that can go on where it was interrupted."""

from workloads.training.loop import train

__all__ = ["train"]
