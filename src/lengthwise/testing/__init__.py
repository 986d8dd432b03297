"""The contract suites, for our methods and for anybody's own."""

from lengthwise.testing.bench import Angles, Bench
from lengthwise.testing.case import Case
from lengthwise.testing.contracts import checks_for, parametrize

__all__ = ["Angles", "Bench", "Case", "checks_for", "parametrize"]
