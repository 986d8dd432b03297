"""Published benchmarks, scored from a person's own copy: measure MODEL --suite NAME --data DIR.

Nothing of them is shipped or downloaded. `suite_of` is what the command line makes of a folder.
"""

from lengthwise.measure.published.cnnsum import CNNSum
from lengthwise.measure.published.fables import FABLES, errors_by, errors_by_position, faithfulness
from lengthwise.measure.published.leval import LEval
from lengthwise.measure.published.longbench import LongBench, length_bin
from lengthwise.measure.published.longbench_write import LongBenchWrite
from lengthwise.measure.published.lveval import PublishedLVEval
from lengthwise.measure.published.suites import suite_of

__all__ = [
    "FABLES",
    "CNNSum",
    "LEval",
    "LongBench",
    "LongBenchWrite",
    "PublishedLVEval",
    "errors_by",
    "errors_by_position",
    "faithfulness",
    "length_bin",
    "suite_of",
]
