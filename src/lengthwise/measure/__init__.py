"""How far a model really reads, and at what cost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lengthwise.measure.cost.speed import Cost as Cost
    from lengthwise.measure.cost.speed import reading_cost as reading_cost
    from lengthwise.measure.engines.base import Reader as Reader
    from lengthwise.measure.engines.local import LocalReader as LocalReader
    from lengthwise.measure.report import findings as findings
    from lengthwise.measure.report import headline as headline
    from lengthwise.measure.report import print_report as print_report
    from lengthwise.measure.report import write_report as write_report
    from lengthwise.measure.run.results import Results as Results
    from lengthwise.measure.run.rows import REFERENCE as REFERENCE
    from lengthwise.measure.run.rows import Cell as Cell
    from lengthwise.measure.run.rows import ItemRow as ItemRow
    from lengthwise.measure.run.rows import ReadingRow as ReadingRow
    from lengthwise.measure.run.runner import measure as measure
    from lengthwise.measure.run.suites import Suite as Suite
    from lengthwise.measure.run.suites import suite as suite
    from lengthwise.measure.statistics.effective import effective_length as effective_length
    from lengthwise.measure.statistics.effective import paired as paired
    from lengthwise.measure.statistics.intervals import Interval as Interval
    from lengthwise.measure.statistics.intervals import bootstrap_mean as bootstrap_mean
    from lengthwise.measure.statistics.intervals import wilson as wilson
    from lengthwise.measure.statistics.judging import NULL_ANSWERS as NULL_ANSWERS
    from lengthwise.measure.statistics.judging import k_character_ties as k_character_ties
    from lengthwise.measure.statistics.judging import null_model_check as null_model_check
    from lengthwise.measure.statistics.judging import wb_reward as wb_reward
    from lengthwise.measure.statistics.length_control import (
        length_controlled_win_rate as length_controlled_win_rate,
    )
    from lengthwise.measure.tasks import Item as Item
    from lengthwise.measure.tasks import Passkey as Passkey
    from lengthwise.measure.tasks import Task as Task
    from lengthwise.measure.tasks.base import Reading as Reading
    from lengthwise.measure.tasks.loss import in_window_losses as in_window_losses
    from lengthwise.measure.tasks.loss import losses_by_position as losses_by_position
    from lengthwise.measure.tasks.readings import Loss as Loss
    from lengthwise.measure.tasks.readings import Speed as Speed

# By module; imported when they are first used (PEP 562), for most of them import torch.
_HOMES = {
    "statistics.effective": ("effective_length", "paired"),
    "engines.base": ("Reader",),
    "engines.local": ("LocalReader",),
    "statistics.judging": ("NULL_ANSWERS", "k_character_ties", "null_model_check", "wb_reward"),
    "statistics.length_control": ("length_controlled_win_rate",),
    "tasks.loss": ("in_window_losses", "losses_by_position"),
    "report": ("findings", "headline", "print_report", "write_report"),
    "run.results": ("Results",),
    "run.rows": ("REFERENCE", "Cell", "ItemRow", "ReadingRow"),
    "run.runner": ("measure",),
    "run.suites": ("Suite", "suite"),
    "cost.speed": ("Cost", "reading_cost"),
    "statistics.intervals": ("Interval", "bootstrap_mean", "wilson"),
    "tasks": ("Item", "Passkey", "Task"),
    "tasks.base": ("Reading",),
    "tasks.readings": ("Loss", "Speed"),
}

__all__ = [
    "NULL_ANSWERS",
    "REFERENCE",
    "Cell",
    "Cost",
    "Interval",
    "Item",
    "ItemRow",
    "LocalReader",
    "Loss",
    "Passkey",
    "Reader",
    "Reading",
    "ReadingRow",
    "Results",
    "Speed",
    "Suite",
    "Task",
    "bootstrap_mean",
    "effective_length",
    "findings",
    "headline",
    "in_window_losses",
    "k_character_ties",
    "length_controlled_win_rate",
    "losses_by_position",
    "measure",
    "null_model_check",
    "paired",
    "print_report",
    "reading_cost",
    "suite",
    "wb_reward",
    "wilson",
    "write_report",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
