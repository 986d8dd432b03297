"""RULER's thirteen tasks, by the names of the source."""

from lengthwise.measure.tasks.base import Task
from lengthwise.measure.tasks.ruler.niah import NIAH
from lengthwise.measure.tasks.ruler.qa import DocumentQA
from lengthwise.measure.tasks.ruler.variables import VariableTracking
from lengthwise.measure.tasks.ruler.words import CommonWords, FrequentWords

RULER: dict[str, Task] = {
    "niah_single_1": NIAH(haystack="noise"),
    "niah_single_2": NIAH(),
    "niah_single_3": NIAH(values="uuid"),
    "niah_multikey_1": NIAH(distractors=3),
    "niah_multikey_2": NIAH(haystack="needles"),
    "niah_multikey_3": NIAH(haystack="needles", keys="uuid", values="uuid"),
    "niah_multivalue": NIAH(values_each=4),
    "niah_multiquery": NIAH(queries=4),
    "vt": VariableTracking(),
    "cwe": CommonWords(),
    "fwe": FrequentWords(),
    "qa_1": DocumentQA(),
    "qa_2": DocumentQA("hotpot"),
}

__all__ = ["NIAH", "RULER", "CommonWords", "DocumentQA", "FrequentWords", "VariableTracking"]
