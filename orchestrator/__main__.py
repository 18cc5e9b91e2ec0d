"""`python -m orchestrator` is the same as `metaprune`."""

from orchestrator.cli import main

main()
