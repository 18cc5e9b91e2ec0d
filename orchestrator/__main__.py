"""`python -m orchestrator` is the same as `metaprune`."""

from metaprune.__main__ import main

main()
