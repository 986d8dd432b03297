"""How hard the information of every benchmark is to find, and how much of it there is.

Source: Goldman et al., Is It Really Long Context if All You Need Is Retrieval (arXiv:2407.00402),
section 3: diffusion is how hard the needed information is to find and to tell from the rest, scope
is how much of it there is. The levels are our judgement of what each benchmark asks.
"""

from typing import Literal, NamedTuple

Level = Literal["low", "high"]


class Axes(NamedTuple):
    """Where a benchmark lies.

    Attributes:
        diffusion: Low where the needed text looks unlike the rest or shares words with the
            question, high where it must be inferred or told from what is alike.
        scope: Low where a sentence or a few are needed, high where it is much of the text.
        why: What is needed, in words.
    """

    diffusion: Level
    scope: Level
    why: str


# By class, our generators and the published sets.
AXES: dict[str, Axes] = {
    "Passkey": Axes("low", "low", "one sentence unlike all others"),
    "NIAH": Axes("low", "low", "sentences that share their key with the question"),
    "VariableTracking": Axes("low", "low", "assignments that lead to each other"),
    "CommonWords": Axes("low", "high", "counts over the whole list"),
    "FrequentWords": Axes("low", "high", "counts over the whole text"),
    "DocumentQA": Axes("low", "low", "one or two documents of the person asked for"),
    "Lines": Axes("low", "low", "one line by its name, among lines that are alike"),
    "NoLiMa": Axes("high", "low", "one sentence that shares no word with the question"),
    "LVEval": Axes("high", "low", "one fact among facts of the same form"),
    "TSort": Axes("high", "high", "all segments, by where each begins and ends"),
    "BestAnswer": Axes("high", "low", "one answer that meets three conditions, among near misses"),
    "Threads": Axes("low", "low", "pairs that lead to each other, by literal keys"),
    "ConditionalNeedles": Axes("high", "low", "every pair with a mark, by no key"),
    "FLenQA": Axes("high", "low", "two facts that only together answer"),
    "LongIns": Axes("high", "high", "every question of the paper, to be solved"),
    "LongICL": Axes("high", "high", "demonstrations of many labels, no one of which is enough"),
    "M4LE": Axes("low", "high", "from one item to all of them, by number or by topic"),
    "DiffusionScope": Axes("high", "high", "set by its two options, one at a time"),
    "InContextLanguage": Axes("high", "high", "a language, from strings of it"),
    "LCFO": Axes("low", "high", "notes all over the text, and the text in short"),
    "HelloBench": Axes("low", "low", "what is asked for; the length is that of the answer"),
    "GoldenThread": Axes("low", "low", "what is asked for; the length is that of the answer"),
    "PathTraversal": Axes("low", "high", "every link of a route among other cities"),
    "BeliefTracking": Axes("low", "high", "every step of a story"),
    "Countdown": Axes("high", "low", "four numbers; the length is that of the search"),
    "TravelPlanning": Axes("high", "low", "flights and dates; the length is that of the search"),
    "HtmlToTable": Axes("low", "high", "every entry of a page that meets a condition"),
    "PseudoToCode": Axes("low", "high", "every line of a program"),
    "LongSafety": Axes("low", "low", "one instruction among text that does not matter"),
    "LEval": Axes("high", "low", "exams and questions about books, papers and meetings"),
    "LongBench": Axes("low", "high", "from passages of one answer to summaries and code"),
    "PublishedLVEval": Axes("high", "low", "one passage among confusing ones, words replaced"),
    "CNNSum": Axes("high", "high", "a novel, in short"),
    "FABLES": Axes("high", "low", "claims about a book, many of which need all of it"),
    "LongBenchWrite": Axes("low", "low", "what is asked for; the length is that of the answer"),
}
