"""The contract suites, for our methods and for anybody's own."""

from lengthwise.testing.bench import Bench
from lengthwise.testing.contracts import Case, checks_for, parametrize

__all__ = ["Bench", "Case", "checks_for", "parametrize"]
