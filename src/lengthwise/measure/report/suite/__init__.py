"""A suite's results for people: a page, and a table in a terminal."""

from lengthwise.measure.report.suite.page import write_suite_report
from lengthwise.measure.report.suite.terminal import print_suite_report

__all__ = ["print_suite_report", "write_suite_report"]
