"""Writing a report: the files of every exhibit that the runs have data for, and two pages that lead to them."""

from reports.page.report import FORMATS, Report, headline, write_report

__all__ = ["FORMATS", "Report", "headline", "write_report"]
