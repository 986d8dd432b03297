"""Results for people: a page, tables in a terminal, sentences, several results side by side."""

from lengthwise.measure.report.findings import findings, headline
from lengthwise.measure.report.report import write_report
from lengthwise.measure.report.terminal import print_report

__all__ = ["findings", "headline", "print_report", "write_report"]
