"""Tasks: generated items of exact length, and their scores."""

from lengthwise.measure.tasks.adaleval import BestAnswer, TSort
from lengthwise.measure.tasks.base import Item, Task
from lengthwise.measure.tasks.conditional import ConditionalNeedles
from lengthwise.measure.tasks.contour import contour
from lengthwise.measure.tasks.diffusion import DiffusionScope
from lengthwise.measure.tasks.flenqa import FLenQA
from lengthwise.measure.tasks.golden_thread import GoldenThread
from lengthwise.measure.tasks.languages import InContextLanguage
from lengthwise.measure.tasks.lines import Lines
from lengthwise.measure.tasks.longicl import LongICL
from lengthwise.measure.tasks.longins import LongIns
from lengthwise.measure.tasks.longproc import (
    BeliefTracking,
    Countdown,
    HtmlToTable,
    PathTraversal,
    PseudoToCode,
    TravelPlanning,
)
from lengthwise.measure.tasks.longsafety import LongSafety
from lengthwise.measure.tasks.lveval import LVEval
from lengthwise.measure.tasks.m4le import M4LE
from lengthwise.measure.tasks.nolima import NoLiMa
from lengthwise.measure.tasks.passkey import Passkey
from lengthwise.measure.tasks.ruler import (
    NIAH,
    RULER,
    CommonWords,
    DocumentQA,
    FrequentWords,
    VariableTracking,
)
from lengthwise.measure.tasks.threads import Threads
from lengthwise.measure.tasks.writing import LCFO, HelloBench

__all__ = [
    "LCFO", "M4LE", "NIAH", "RULER", "BeliefTracking", "BestAnswer", "CommonWords",
    "ConditionalNeedles", "Countdown", "DiffusionScope", "DocumentQA", "FLenQA", "FrequentWords",
    "GoldenThread", "HelloBench", "HtmlToTable", "InContextLanguage", "Item", "LVEval", "Lines",
    "LongICL", "LongIns", "LongSafety", "NoLiMa", "Passkey", "PathTraversal", "PseudoToCode",
    "TSort", "Task", "Threads", "TravelPlanning", "VariableTracking", "contour",
]  # fmt: skip
