"""Rows that recipes of tuning train on: texts, documents, problems, questions, preferences.

Every kind is made once for a base and kept as a directory of `datasets`; `lengthwise train` reads
the same directories. Texts are files of Python's standard library that the bundled model has seen,
a tenth of them left out to choose learning rates by; held-out files are for what is published.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lab_problems import encoder, in_text
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.files import whole_directory, write_text
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.measure.tasks.passkey import NEEDLE, QUESTION, Passkey
from lengthwise.measure.tasks.text import read_text, standard_library_files
from lengthwise.train.data.packers import best_fit
from lengthwise.train.data.weights import IGNORED
from lengthwise.train.loop.pairs import answer_pairs
from lengthwise.train.tuning.longrecipe import impactful

VALIDATION = "validation.txt"
SHARE = 0.05  # of tokens that are impactful; a sentence of ten then is in two of five cases


@dataclass(frozen=True)
class Corpus:
    """A base, and what rows are made of.

    Attributes:
        window, target, longest: Tokens of the base's window, of most targets (four windows) and of
            the longest (ten).
        count: Rows of problems and of questions; of preferences an eighth.
        long: Texts of at least `longest` tokens.
        short: Other texts.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: int
    target: int
    longest: int
    count: int
    long: list[list[int]]
    short: list[list[int]]


def split(seed: int = 0) -> tuple[list[Path], list[Path]]:
    """Files to train on, and files to choose by."""
    files = standard_library_files(held_out=False)
    random.Random(seed).shuffle(files)
    apart = len(files) // 10
    return files[apart:], files[:apart]


def read_corpus(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, window: int, tokens: int, count: int
) -> Corpus:
    """Long texts with so many tokens, and short ones with a quarter of that at least."""
    long: list[list[int]] = []
    short: list[list[int]] = []
    encode = encoder(tokenizer)
    for path in split()[0]:
        ids = encode(read_text(path))
        if ids:
            (long if len(ids) >= 10 * window else short).append(ids)
        if sum(map(len, long)) >= tokens and sum(map(len, short)) >= tokens // 4:
            break
    return Corpus(model, tokenizer, window, 4 * window, 10 * window, count, long, short)


def write_validation(folder: Path, characters: int) -> Path:
    """The text to choose learning rates by."""
    file = folder / VALIDATION
    if not file.is_file():
        write_text(file, "\n".join(map(read_text, split()[1]))[:characters])
    return file


def _pieces(corpus: Corpus, length: int, seed: int) -> list[list[int]]:
    """Pieces of long texts, shuffled."""
    pieces = [ids[n : n + length] for ids in corpus.long
              for n in range(0, len(ids) - length + 1, length)]  # fmt: skip
    random.Random(seed).shuffle(pieces)
    return pieces


def texts(corpus: Corpus) -> list[dict[str, Any]]:
    """Pieces of the longest target; every recipe cuts its own rows out of them."""
    return [{"input_ids": ids} for ids in _pieces(corpus, corpus.longest, 0)]


def packed(corpus: Corpus) -> list[dict[str, Any]]:
    """Rows of several short documents."""
    target = corpus.target
    pieces = [ids[n : n + target] for ids in corpus.short for n in range(0, len(ids), target)]
    return [{"input_ids": [token for n in chosen for token in pieces[n]],
             "seq_lengths": [len(pieces[n]) for n in chosen]}
            for chosen in best_fit([len(piece) for piece in pieces], target)]  # fmt: skip


def _problems(corpus: Corpus, length: int, seed: int) -> Iterator[tuple[list[int], list[bool]]]:
    """Passkeys, pairs, needles and chains in texts, with their answers marked."""
    encode, rng = encoder(corpus.tokenizer), random.Random(seed)
    first = first_token(corpus.tokenizer)
    lead = [] if first is None else [first]
    pieces = _pieces(corpus, length, seed)
    for number in range(corpus.count):
        filler = pieces[number % len(pieces)]
        row = in_text(rng, encode, filler, length - len(lead))
        yield [*lead, *row.ids], [*[False] * len(lead), *row.answers]


def problems(corpus: Corpus) -> list[dict[str, Any]]:
    """Problems that fill the window; labels on answers."""
    return [
        {
            "input_ids": ids,
            "labels": [t if asked else IGNORED for t, asked in zip(ids, answers, strict=True)],
        }
        for ids, answers in _problems(corpus, corpus.window, 1)
    ]


def questions(corpus: Corpus) -> list[dict[str, Any]]:
    """Problems in texts of the longest target, and as many plain texts; all tokens are targets."""
    asked = [ids for ids, _ in _problems(replace(corpus, count=corpus.count // 8),
                                         corpus.longest, 2)]  # fmt: skip
    rows = [{"input_ids": ids} for ids in asked]
    return rows + texts(corpus)[: len(rows)]


def small(corpus: Corpus) -> list[dict[str, Any]]:
    """16 texts of half a window."""
    return [
        {"input_ids": ids[: corpus.window // 2]} for ids in _pieces(corpus, corpus.target, 3)[:16]
    ]


def pairs(corpus: Corpus) -> list[dict[str, Any]]:
    """Passkeys in texts of the target and in the lines around them, as the base answers them."""
    filler = corpus.tokenizer.decode([t for ids in corpus.long[:20] for t in ids])
    items = Passkey(filler).build(corpus.tokenizer, corpus.target, corpus.count // 8, 4)
    around = 2 * corpus.window // 3  # characters
    prompts = []
    for item in items:
        needle = NEEDLE.format(key=item.answer).strip()
        at = item.prompt.index(needle)
        body = item.prompt.removesuffix(QUESTION)
        near = body[max(0, at - around) : at + len(needle) + around]
        ids: Any = corpus.tokenizer([item.prompt, near + QUESTION], verbose=False)["input_ids"]
        prompts.append((ids[0], ids[1]))
    made = answer_pairs(corpus.model, prompts, items[0].allowance)
    if not made:
        raise ValueError("the base answers long and short prompts alike: there are no preferences")
    return made


def plain_pairs(corpus: Corpus) -> list[dict[str, Any]]:
    """The same, the reference reading the long text too: what is left of LongPO is DPO."""
    return [{**row, "short": row["long"]} for row in pairs(corpus)]


def chosen(corpus: Corpus) -> list[dict[str, Any]]:
    """The chosen answers after the long texts, to be imitated: supervised tuning."""
    return [
        {
            "input_ids": [*row["long"], *row["chosen"]],
            "labels": [*[IGNORED] * len(row["long"]), *row["chosen"]],
        }
        for row in pairs(corpus)
    ]


def marked(corpus: Corpus, tuned: PreTrainedModel) -> list[dict[str, Any]]:
    """Texts of the target, with the tokens that a long context changes most.

    Held against each other are the base, which sees a window at a time, and a model that was tuned
    on long texts and sees all.
    """
    rows = []
    for ids in _pieces(corpus, corpus.target, 5)[: corpus.count // 4]:
        whole = torch.tensor(ids)[None]
        after = -losses_by_position(tuned, whole)[0]
        parts = [losses_by_position(corpus.model, part)[0] for part in whole.split(corpus.window, 1)
                 if part.shape[1] > 1]  # fmt: skip
        # The first token of a part has no loss; both are taken to rate it alike.
        before, at = after.clone(), 0
        for part in parts:
            before[at : at + len(part)] = -part
            at += corpus.window
        rows.append(
            {"input_ids": ids, "impactful": [False, *impactful(before, after, SHARE).tolist()]}
        )
    return rows


KINDS: dict[str, Callable[[Corpus], list[dict[str, Any]]]] = {
    "texts": texts, "packed": packed, "problems": problems, "questions": questions, "small": small,
    "pairs": pairs, "plain_pairs": plain_pairs, "chosen": chosen,
}  # fmt: skip


def keep(rows: list[dict[str, Any]], place: Path) -> None:
    """Write rows, whole or not at all."""
    with whole_directory(place) as fresh:
        Dataset.from_list(rows).save_to_disk(str(fresh))
