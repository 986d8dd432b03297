"""Ways to put a text to a model that is longer than its window: in parts, twice, or by paths.

    from lengthwise.measure.strategies import ChainOfAgents, StrategyReader

    reply = StrategyReader(reader, ChainOfAgents(window=2048)).ask(text, "Who came?", new=64)

`lengthwise measure --strategy NAME` scores them beside each other and beside methods, `lengthwise
run --strategy NAME` asks a question about a file.
"""

from lengthwise.measure.strategies.chainofagents import ChainOfAgents
from lengthwise.measure.strategies.jrt import JRT
from lengthwise.measure.strategies.randomaccessreading import RandomAccessReading
from lengthwise.measure.strategies.reader import StrategyReader
from lengthwise.measure.strategies.superpositionprompting import SuperpositionPrompting
from lengthwise.measure.strategies.truncation import Truncation
from lengthwise.measure.strategies.xl3m import XL3M

__all__ = [
    "JRT",
    "XL3M",
    "ChainOfAgents",
    "RandomAccessReading",
    "StrategyReader",
    "SuperpositionPrompting",
    "Truncation",
]
