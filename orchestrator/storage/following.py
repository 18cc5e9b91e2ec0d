"""Following the tables of a run that goes on: only files that were not read before are read."""

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa

from orchestrator.storage.store import PART_FILES, Store


class NewRows:
    """The rows of a table that have come since they were last asked for.

    A row may come twice, after the file that held it was merged with some that had not been read: whoever asks knows
    rows by their `cell`.

    Args:
        columns: of the table.
    """

    def __init__(self, store: Store, table: str, columns: Sequence[str]):
        self.store, self.table, self.columns = store, table, list(columns)
        self.seen: set[str] = set()

    def parts(self) -> Iterator[pa.Table]:
        """The new rows, those of some files at a time.

        Raises:
            pa.ArrowException, OSError, ValueError: a file cannot be read; those before it will not come again.
        """
        new = [name for name in sorted(self.store.listed(self.table) - self.seen) if not self.is_known(name)]
        for start in range(0, len(new), PART_FILES):
            some = new[start : start + PART_FILES]
            with contextlib.suppress(FileNotFoundError):  # merged into another meanwhile, which comes next time
                rows = self.store.read_shards(self.table, some, self.columns)
                self.seen.update(some)
                yield rows

    def is_known(self, name: str) -> bool:
        """Whether a file holds nothing but rows of files that were read."""
        with contextlib.suppress(FileNotFoundError):
            replaced = self.store.replaced_by(self.table, name)
            if replaced and replaced <= self.seen:
                self.seen.add(name)
                return True
        return False
