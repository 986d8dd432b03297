"""Scores of one answer against references, from 0 to 1."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CONTROL = re.compile(r"[\x00-\x1f]")


def normalized(text: str) -> str:
    """Lower case without punctuation, articles and surplus white space.

    Source: Rajpurkar et al., SQuAD (arXiv:1606.05250), section 6.1.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(units: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of two bags of units; 0 where nothing is shared."""
    shared = sum((Counter(units) & Counter(reference)).values())
    return 2 * shared / (len(units) + len(reference)) if shared else 0.0


def token_f1(text: str, reference: str) -> float:
    """F1 of the words after `normalized`.

    Source: Rajpurkar et al., SQuAD (arXiv:1606.05250), section 6.1.
    """
    return f1(normalized(text).split(), normalized(reference).split())


def set_f1(found: set[str], wanted: set[str]) -> float:
    """F1 of two sets; 1 where both are empty."""
    if not found and not wanted:
        return 1.0
    return 2 * len(found & wanted) / (len(found) + len(wanted))


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, as ROUGE counts them without a stemmer."""
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_n(text: str, reference: str, n: int) -> float:
    """F1 of the n-grams.

    Source: Lin, ROUGE (2004), section 2; the F-measure of the `rouge-score` package.
    """

    def grams(units: list[str]) -> list[str]:
        return ["\0".join(units[i : i + n]) for i in range(len(units) - n + 1)]

    return f1(grams(words(text)), grams(words(reference)))


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence.

    Source: Lin, ROUGE (2004), section 3.1, with beta 1; the F-measure of `rouge-score`.
    """
    ours, theirs = words(text), words(reference)
    common = _common_subsequence(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _common_subsequence(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence, one bit per unit of `ours` (Hyyrö 2004)."""
    at: dict[str, int] = {}
    for i, unit in enumerate(ours):
        at[unit] = at.get(unit, 0) | 1 << i
    whole = (1 << len(ours)) - 1
    left = whole
    for unit in theirs:
        both = left & at.get(unit, 0)
        left = ((left + both) | (left - both)) & whole
    return len(ours) - left.bit_count()


def rouge_l_summary(text: str, reference: str) -> float:
    """F1 of the different words that lie on longest common subsequences of sentences.

    Source: ROUGE-L as the `rouge` package (1.0.1) computes it, with which LongBench
    (arXiv:2308.14508), LV-Eval (arXiv:2402.05136) and CNNSum (arXiv:2412.02819) report: sentences
    end at full stops, words at blanks, each different word counts once. `rouge_l` is the usual one.
    """
    ours, theirs = _sentences(text), _sentences(reference)
    if not ours or not theirs:
        return 0.0
    shared = {word for a in theirs for b in ours for word in _on_path(a, b)}
    found = {word for sentence in ours for word in sentence}
    wanted = {word for sentence in theirs for word in sentence}
    precision, recall = len(shared) / len(found), len(shared) / len(wanted)
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[list[str]]:
    # Blanks between two full stops make an empty word there, so they do here.
    return [part.split() or [""] for part in text.split(".") if part]


def _on_path(ours: Sequence[str], theirs: Sequence[str]) -> set[str]:
    """Words of one longest common subsequence; of several that which uses `ours` latest."""
    table = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            above, left = table[i][j + 1], table[i + 1][j]
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(above, left)
    i, j, found = len(ours), len(theirs), set[str]()
    while i and j:
        if ours[i - 1] == theirs[j - 1]:
            i, j = i - 1, j - 1
            found.add(ours[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def edit_similarity(text: str, reference: str) -> float:
    """How alike two strings are, in whole per cents: matching blocks over both lengths.

    Source: LongBench (arXiv:2308.14508), table 1, code completion; its code asks a fuzzy-matching
    package, which asks `difflib` if nothing faster is installed.
    """
    return round(100 * SequenceMatcher(None, text, reference).ratio()) / 100


def _plain(text: str) -> str:
    return _CONTROL.sub("\n", text.strip()).strip().lower()


def match_all(text: str, references: Sequence[str]) -> float:
    """The fraction of the references that stand in the text, whatever the case.

    Source: Hsieh et al., RULER (arXiv:2404.06654), `string_match_all` of its code.
    """
    return sum(reference.lower() in _plain(text) for reference in references) / len(references)


def match_part(text: str, references: Sequence[str]) -> float:
    """1 if any of the references stands in the text, whatever the case.

    Source: Hsieh et al., RULER (arXiv:2404.06654), `string_match_part` of its code.
    """
    return float(any(reference.lower() in _plain(text) for reference in references))


# LV-Eval's blacklist: words that do not count as a recalled keyword.
LVEVAL_WORDS = frozenset(
    """about and are as at be because being but by does for from had has have he her his in is it
    of on or she that their they this to was were what when which who with""".split()
)


def keyword_f1(text: str, answer: str, keywords: str, least: float = 0.2) -> float:
    """Token F1 with the answer, or 0 where fewer than `least` of the keywords are recalled.

    Source: Yuan et al., LV-Eval (arXiv:2402.05136), section 3.3.3; as its public code has it, words
    of the blacklist count as not recalled and stay in the F1.
    """
    wanted = normalized(keywords).split()
    shared = Counter(normalized(text).split()) & Counter(wanted)
    recalled = sum(n for word, n in shared.items() if word not in LVEVAL_WORDS)
    if wanted and recalled / len(wanted) < least:
        return 0.0
    return token_f1(text, answer)


def length_score(words: int, asked: int) -> float:
    """1 at the length that was asked for; 0 at four times as much, or at a third of it.

    Source: Bai et al., LongWriter (arXiv:2408.07055), section 4.1, S_l / 100.
    """
    if words <= 0:
        return 0.0
    over = words > asked
    return max(0.0, 1 - (words / asked - 1) / 3 if over else 1 - (asked / words - 1) / 2)
