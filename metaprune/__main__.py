"""`metaprune`, also as `python -m metaprune`."""

import os
import sys

from metaprune import _packages


def main() -> None:
    """Run the command line."""
    try:
        os.getcwd()
    except OSError:
        print("metaprune: the current folder is gone: change to one that exists", file=sys.stderr)
        sys.exit(2)
    with _packages.searched_last(_packages.users_folders()):
        from orchestrator.cli import main as command_line
    command_line()


if __name__ == "__main__":
    main()
