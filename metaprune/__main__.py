"""`metaprune`, also as `python -m metaprune`."""

from metaprune import _packages


def main() -> None:
    """Run the command line."""
    with _packages.searched_last(_packages.users_folders()):
        from orchestrator.cli import main as command_line
    command_line()


if __name__ == "__main__":
    main()
