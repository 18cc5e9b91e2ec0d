"""Compressing networks: importance criteria, methods that map neurons, and the repair of what they change."""

from workloads.compression.compress import Sources, compress, score
from workloads.structure.network import Network

__all__ = ["Network", "Sources", "compress", "score"]
