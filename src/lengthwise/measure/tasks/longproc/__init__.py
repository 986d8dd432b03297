"""LongProc's procedures whose every line can be checked by a rule."""

from lengthwise.measure.tasks.longproc.belief import BeliefTracking
from lengthwise.measure.tasks.longproc.countdown import Countdown
from lengthwise.measure.tasks.longproc.path import PathTraversal

__all__ = ["BeliefTracking", "Countdown", "PathTraversal"]
