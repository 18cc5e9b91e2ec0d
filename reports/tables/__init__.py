"""Tables as Markdown, LaTeX, CSV and HTML."""

from reports.tables.table import Table, escaped, number, signed

__all__ = ["Table", "escaped", "number", "signed"]
