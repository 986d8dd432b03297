"""Problems that the next bundled model learns from: those of the suites, and denser ones first.

A problem is a prompt and its answer. The suites' own generators make most, with seeds that no
measurement uses, sized to a length that the caller names. The denser ones ask for all that a text
holds, so that each token of them teaches more, and finding something again is learned early.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lab_model import WORDS, Problem, _key_value, _needles, _passkey, _tracing
from transformers import PreTrainedTokenizerBase

from lengthwise.measure import tasks
from lengthwise.measure.tasks.draws import invented, pair_of_words, uuid4
from lengthwise.measure.tasks.exact import DOTS, Generated
from lengthwise.measure.tasks.words import ADJECTIVES, NAMES, NOUNS

Encode = Callable[[str], list[int]]


class Row(NamedTuple):
    """Tokens without `<s>`, and which of them are an answer's."""

    ids: list[int]
    answers: list[bool]


class Kind(NamedTuple):
    """Tasks of one name, drawn with a weight; several where the suites' own is the hardest."""

    weight: float
    tasks: tuple[Generated, ...]


def _niah(**options: object) -> tuple[Generated, ...]:
    return (tasks.NIAH(**options),)  # type: ignore[arg-type]


# What `measure --suite full` asks, and easier versions. Left out is what cannot be learned from an
# answer alone (HelloBench, LCFO), and what does not fit the window at all.
KINDS: dict[str, Kind] = {
    "niah_single": Kind(
        3, _niah(haystack="noise") + _niah() + _niah(values="uuid") + _niah(budget=16)
    ),
    "niah_multikey": Kind(
        3, _niah(distractors=3) + _niah(haystack="needles") + _niah(distractors=1)
        + _niah(haystack="needles", keys="uuid", values="uuid"),
    ),
    "niah_multi": Kind(
        2, _niah(values_each=4) + _niah(queries=4) + _niah(values_each=2) + _niah(queries=2)
    ),
    "vt": Kind(
        3, tuple(
            tasks.VariableTracking(hops=hops, example=example)
            for hops in (1, 2, 4) for example in (True, False)
        ),
    ),
    "cwe": Kind(1.5, tuple(tasks.CommonWords(common=n) for n in (3, 10, 10))),
    "fwe": Kind(1.5, tuple(tasks.FrequentWords(alpha) for alpha in (2.0, 2.0, 2.5))),
    "qa": Kind(3, (tasks.DocumentQA("squad"), tasks.DocumentQA("hotpot"))),
    "lines": Kind(2, (tasks.Lines(),)),
    "nolima": Kind(2, (tasks.NoLiMa(), tasks.NoLiMa(steps=2, distractor=True))),
    "lveval": Kind(1.5, (tasks.LVEval(), tasks.LVEval(confusing=1))),
    "threads": Kind(
        2, (
            tasks.Threads(), tasks.Threads(threads=3, clustered=True), tasks.Threads(steps=2),
            tasks.Threads(steps=4), tasks.Threads(steps=4, direction="backward"),
            tasks.Threads(threads=2, steps=2, direction="random"),
            tasks.Threads(steps=3, branches=3), tasks.ConditionalNeedles(needles=2),
            tasks.ConditionalNeedles(),
        ),
    ),
    "flenqa": Kind(
        2, (
            tasks.FLenQA("relations"), tasks.FLenQA("rooms", "similar"),
            tasks.FLenQA("rules", "repeated"), tasks.FLenQA("rules"), tasks.FLenQA("rooms"),
        ),
    ),
    "diffusion": Kind(
        2, tuple(
            tasks.DiffusionScope(scope=s, diffusion=d)
            for s in (1, 2, 4) for d in ("together", "scattered", "worded", "linked")
        ),
    ),
    "longicl": Kind(
        2, tuple(tasks.LongICL(labels=n, grouped=g) for n in (4, 8, 28) for g in (False, True))
    ),
    "longins": Kind(1, tuple(tasks.LongIns(s) for s in ("GIST", "LIST", "LIMT"))),
    "m4le": Kind(
        1.5, tuple(
            tasks.M4LE(of)
            for of in (
                "explicit single", "semantic single", "explicit multiple", "semantic multiple",
                "global",
            )
        ),
    ),
    "adaleval": Kind(0.5, (tasks.TSort(), tasks.BestAnswer())),
    "languages": Kind(0.5, (tasks.InContextLanguage(),)),
}  # fmt: skip


def _chosen(rng: random.Random) -> str:
    """A word, a name, a pair, an invented word, a number or letters: what is found again."""
    return rng.choice((
        lambda: rng.choice(WORDS), lambda: rng.choice(NAMES), lambda: pair_of_words(rng),
        lambda: invented(rng, 3), lambda: rng.choice(NOUNS),
        lambda: "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.choice((3, 5)))),
        lambda: uuid4(rng)[:8], lambda: f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}",
    ))()  # fmt: skip


_PAIRS = (
    ("{k}: {v}\n", "{k}: {v}\n"),
    ('"{k}":"{v}",\n', '"{k}":"{v}"\n'),
    ("The special number of {k} is: {v}. ", "The special number of {k} is {v}. "),
    ("line {k}: the register holds <{v}>\n", "The register of line {k} holds {v}\n"),
    ("VAR {k} = {v}\n", "The value of VAR {k} is {v}\n"),
    ("{k} => {v}\n", "{k} => {v}\n"),
    ("{k} is a {v}. ", "What is {k}? {v}\n"),
)


def dense_pairs(rng: random.Random, encode: Encode, length: int) -> Row:
    """Pairs, then all of them again in another order; the second of each is the answer."""
    shown, asked = rng.choice(_PAIRS)
    draw = rng.choice((_chosen, lambda r: str(r.randrange(10 ** r.choice((2, 4, 6))))))
    told: dict[str, str] = {}
    ids: list[int] = []
    tail: list[tuple[list[int], list[int]]] = []
    size = 0
    while True:
        key, value = _chosen(rng), draw(rng)
        if key in told:
            continue
        before, after = asked.split("{v}")
        fact = encode(shown.format(k=key, v=value))
        lead = before.format(k=key).rstrip(" ")
        question, answer = (
            encode(lead),
            encode(f"{before.format(k=key)[len(lead) :]}{value}{after}"),
        )
        size += len(fact) + len(question) + len(answer)
        if size > length and told:
            break
        told[key] = value
        ids += fact
        tail.append((question, answer))
        if size > length:
            break
    # Of one that was not told there is none: who finds nothing must have somewhere to look.
    lost = [key for key in (_chosen(rng) for _ in range(len(told) // 6)) if key not in told]
    for key in lost:
        lead = asked.split("{v}")[0].format(k=key).rstrip(" ")
        tail.append((encode(lead), encode(" none\n")))
    rng.shuffle(tail)
    row = Row(list(ids), [False] * len(ids))
    for question, answer in tail:
        row.ids.extend(question + answer)
        row.answers.extend([False] * len(question) + [True] * len(answer))
    return Row(row.ids[:length], row.answers[:length])


def repeated(rng: random.Random, length: int, vocabulary: int, special: int) -> Row:
    """Tokens drawn without sense, again and again: everything but the first round is an answer."""
    period = rng.randint(max(4, length // 12), length // 2)
    first = [rng.randrange(special, vocabulary) for _ in range(period)]
    ids = (first * (length // period + 1))[:length]
    return Row(ids, [False] * (period + 1) + [True] * (length - period - 1))


def in_text(rng: random.Random, encode: Encode, filler: Sequence[int], length: int) -> Row:
    """Passkeys, pairs, needles and chains between lines of a text, as the first model learned."""
    problems: tuple[Problem, ...] = (_passkey, _key_value, _needles, _tracing)
    while True:
        needles, asked = rng.choice(problems)(rng)
        parts = [encode(needle) for needle in needles]
        tail = [(encode(question), encode(answer)) for question, answer in asked]
        room = length - sum(map(len, parts)) - sum(len(q) + len(a) for q, a in tail)
        if room >= 0:
            break
    start = rng.randrange(max(1, len(filler) - room))
    text = list(filler[start : start + room])
    cuts = [rng.randint(0, len(text)) for _ in parts]
    if needles[0].startswith("\nVAR"):  # a chain keeps its order
        cuts.sort()
    ids, at = list[int](), 0
    for cut, part in sorted(zip(cuts, parts, strict=True), key=lambda pair: pair[0]):
        ids += text[at:cut] + part
        at = cut
    ids += text[at:]
    answers = [False] * len(ids)
    for question, answer in tail:
        ids += question + answer
        answers += [False] * len(question) + [True] * len(answer)
    return Row(ids, answers)


def of_task(task: Generated, seed: str, encode: Encode, length: int) -> Row | None:
    """A page of the task's own generator with as many units as `length` tokens hold.

    None if not even the shortest one fits.
    """
    sized = task.sized(length)
    rng = random.Random(seed)
    try:
        pages = sized.drawn(rng.getrandbits(32), rng, lambda text: len(encode(text)))
        least = sized.least
        page = pages(least)
        ids, answer = encode(page.prompt()), _answer(page.prompt(), page.answer, encode)
        low = len(ids) + len(answer)
        if low > length:
            return None
        more = pages(least + 4)
        unit = (len(encode(more.prompt())) + len(_answer("", more.answer, encode)) - low) / 4
        count = least + int((length - low) / max(unit, 0.5))
        while count > least:
            page = pages(count)
            ids, answer = encode(page.prompt()), _answer(page.prompt(), page.answer, encode)
            if len(ids) + len(answer) <= length:
                break
            count = max(
                least, min(count - 1, count - int((len(ids) + len(answer) - length) / unit))
            )
            page = pages(count)
            ids, answer = encode(page.prompt()), _answer(page.prompt(), page.answer, encode)
    except ValueError:
        return None
    if len(ids) + len(answer) > length:
        return None
    if rng.random() < 0.5:  # measured prompts are padded so, to their exact length
        filled = encode(page.prompt(DOTS * max(0, length - len(ids) - len(answer) - 2) + "\n"))
        ids = filled if len(filled) + len(answer) <= length else ids
    return Row(ids + answer, [False] * len(ids) + [True] * len(answer))


def _answer(prompt: str, answer: str, encode: Encode) -> list[int]:
    return encode(answer if prompt[-1:].isspace() else " " + answer)


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """Tokens of a text, without `<s>`, by the shortest way."""
    fast = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    return lambda text: list(fast.encode(text, add_special_tokens=False).ids)
