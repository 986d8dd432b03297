"""Published benchmarks, scored from a person's own copy; nothing of them is shipped."""

from lengthwise.measure.published.cnnsum import CNNSum
from lengthwise.measure.published.fables import FABLES, errors_by_position, faithfulness
from lengthwise.measure.published.leval import LEval
from lengthwise.measure.published.longbench import LongBench, length_bin
from lengthwise.measure.published.longbench_write import LongBenchWrite
from lengthwise.measure.published.lveval import PublishedLVEval

__all__ = [
    "FABLES",
    "CNNSum",
    "LEval",
    "LongBench",
    "LongBenchWrite",
    "PublishedLVEval",
    "errors_by_position",
    "faithfulness",
    "length_bin",
]
