"""The folder of a report: its files take the place of those of earlier reports there, and of nobody else's."""

from collections.abc import Iterable
from pathlib import Path

from orchestrator.storage.store import local_folder

NAMES = ".metaprune-report"  # in the folder: the names of the files that reports have written there, a line each
OUR_PAGE = "– metaprune report</title>"  # in the page of a report of version 0.1, which left no such names


class Place:
    """Where a report is written.

    Args:
        out: a folder of this machine; made when something is written.

    Raises:
        ValueError: it is a URI, or in the home of somebody whom this machine does not know.
    """

    def __init__(self, out: str | Path):
        if "://" in str(out):
            raise ValueError(f"a report is written to a folder of this machine, not to '{out}': give one as --out")
        local_folder(out)
        self.folder = Path(out).expanduser()

    def written_before(self) -> set[str]:
        """The names of files there that reports have written."""
        if not self.folder.is_dir():
            return set()
        if (self.folder / NAMES).is_file():
            return set((self.folder / NAMES).read_text(encoding="utf-8").splitlines())
        page = self.folder / "index.html"
        ours = page.is_file() and OUR_PAGE in page.read_text(encoding="utf-8", errors="replace")
        return {file.name for file in self.folder.iterdir()} if ours else set()

    def check(self, names: Iterable[str]) -> None:
        """Make sure that no file of somebody else's has one of these names.

        Raises:
            FileExistsError: one has; the message names it and what to do.
        """
        theirs = sorted(set(names) - self.written_before())
        for name in theirs:
            if (self.folder / name).exists() or (self.folder / name).is_symlink():
                raise FileExistsError(
                    f"'{self.folder / name}' is there and no report has written it: give --out as another folder, so "
                    f"that nothing of yours is overwritten"
                )

    def claim(self, names: Iterable[str]) -> None:
        """Take these names for files of reports, before any of them is written.

        Raises:
            OSError: as `check` does, or the folder cannot be written to.
        """
        names = set(names)
        self.check(names)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{name}\n" for name in sorted(names | self.written_before()))
            (self.folder / NAMES).write_text(text, encoding="utf-8")
        except OSError as error:
            raise type(error)(
                f"a report cannot be written to '{self.folder}' ({error.strerror}): give --out as another folder"
            ) from error
