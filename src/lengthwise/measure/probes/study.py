"""The controlled study of extension methods: one base, one text, the same items for all."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.method import Method
from lengthwise.files import hold
from lengthwise.hf.weights import fingerprint
from lengthwise.measure import tasks as all_tasks
from lengthwise.measure.engines.greedy import answers, with_answers
from lengthwise.measure.engines.reading import CHUNK, first_token, with_methods
from lengthwise.measure.run.environment import hardware, versions
from lengthwise.measure.run.results import Cell, Results, ResultsFile, Row
from lengthwise.measure.tasks.base import Item, Task
from lengthwise.measure.tasks.loss import losses_by_position

PERPLEXITY, NEEDLE = "perplexity", "needle"


def tasks_by_name(text: str) -> dict[str, Task]:
    """What a study can measure beside perplexity; `needle` is a passkey in the text."""
    return {
        NEEDLE: all_tasks.Passkey(text),
        **all_tasks.RULER,
        "lines": all_tasks.Lines(),
        "threads": all_tasks.Threads(steps=2),
        "longicl": all_tasks.LongICL(labels=8),
    }


@dataclass(frozen=True)
class Entry:
    """One candidate.

    Attributes:
        methods: That `adapt` takes together; none is the model as it is.
        checkpoint: Loads a tuned checkpoint and its tokenizer; None is the base of the study.
    """

    methods: Sequence[Method] = ()
    checkpoint: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]] | None = None


class _Bench:
    """The text and the items, which are the same for every entry."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, text: str, settings: Mapping[str, int]
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.tasks = tasks_by_name(text)
        self.ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        self._items: dict[tuple[str, int], list[Item]] = {}

    def texts(self, length: int) -> Tensor:
        """`[samples, length]`: stretches that do not overlap, each with the tokenizer's head."""
        head = first_token(self.tokenizer)
        lead = [] if head is None else [head]
        samples = self.settings["samples"]
        if samples * length > len(self.ids):
            raise ValueError(
                f"the text has {len(self.ids):,} tokens and {samples} samples of {length:,} are "
                "wanted; give a longer text or a shorter length"
            )
        step = len(self.ids) // samples
        rows = [lead + self.ids[i * step : i * step + length - len(lead)] for i in range(samples)]
        return torch.tensor(rows)

    def items(self, task: str, length: int) -> list[Item]:
        key = task, length
        if key not in self._items:
            count, seed = self.settings["items"], self.settings["seed"]
            self._items[key] = self.tasks[task].build(self.tokenizer, length, count, seed)
        return self._items[key]

    def measure(self, model: PreTrainedModel, task: str, length: int) -> dict[str, Any]:
        chunk = self.settings["chunk"]
        if task == PERPLEXITY:
            nats = [
                float(losses_by_position(model, row[None], chunk).double().mean())
                for row in self.texts(length)
            ]
            mean = sum(nats) / len(nats)
            return {"nats": mean, "by_text": nats, "perplexity": math.exp(mean)}
        items = self.items(task, length)
        replies = answers(model, self.tokenizer, items, chunk)
        scores = [self.tasks[task].score(*pair) for pair in zip(replies, items, strict=True)]
        # Nats per token of the right answers: they say something where no reply is right.
        nats = [
            float(losses_by_position(model, ids[None], chunk)[:, -size:].double().mean())
            for ids, size in with_answers(self.tokenizer, items)
        ]
        return {
            "score": sum(scores) / len(scores),
            "scores": scores,
            "answer_nats": sum(nats) / len(nats),
        }


def study(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    entries: Mapping[str, Entry],
    lengths: Sequence[int],
    *,
    text: str,
    output: Path,
    tasks: Sequence[str] = (NEEDLE, "niah_single_1", "vt"),
    samples: int = 1,
    items: int = 10,
    seed: int = 0,
    chunk: int = CHUNK,
    progress: Callable[[str], None] = lambda words: None,
) -> Results:
    """Perplexity, needles and tasks of every entry, at every length, on the same texts and items.

    Source: Lu et al. 2024 (arXiv:2409.12181): extension methods on one base, with the same data
    and budget, judged by perplexity, needle retrieval and tasks, and how the three go together.
    Differs from the source: untuned methods, unless an entry brings a checkpoint.

    Args:
        model: The base, not adapted.
        entries: Candidates by name.
        lengths: Tokens.
        text: Read for the perplexity, and hides the needle.
        output: JSON lines; what it holds is not measured again.
        tasks: Of `tasks_by_name`, beside perplexity; a needle among them.
        samples: Texts for the perplexity.
        items: Of every task and length.
        progress: Is told what comes next.

    Raises:
        ValueError: An adapted model, an unknown task, or an output of another study. A cell that
            raises ValueError is recorded as refused.
    """
    if is_adapted(model):
        raise ValueError("a study adapts the model itself; call lengthwise.restore(model) first")
    if not entries or not lengths or min(lengths) < 2 or min(samples, items) < 1:
        raise ValueError("a study needs entries, lengths of 2 tokens at least, samples and items")
    counts = {"samples": samples, "items": items, "seed": seed, "chunk": chunk}
    bench = _Bench(tokenizer, text, counts)
    for task in tasks:
        if task not in bench.tasks:
            raise ValueError(f"unknown task {task!r}: choose from {', '.join(bench.tasks)}")
    plan = {"study": "extension", "fingerprint": fingerprint(model), **counts}
    plan |= {"text": hashlib.sha256(text.encode()).hexdigest()[:12]}
    with hold(output.parent):
        file = ResultsFile(output, plan)
        finished = {row.cell for row in file.results.rows}
        for name, entry in entries.items():
            wanted = [Cell(name, task, n) for n in sorted(lengths) for task in (PERPLEXITY, *tasks)]
            left = [cell for cell in wanted if cell not in finished]
            if not left:
                continue
            candidate = model if entry.checkpoint is None else entry.checkpoint()[0]
            for cell in left:
                progress(f"{cell.task} {cell.length:,} · {name}")
                file.add(_measured(bench, candidate, entry, cell))
        return file.results


def _measured(bench: _Bench, model: PreTrainedModel, entry: Entry, cell: Cell) -> Row:
    began, values, refused = time.perf_counter(), dict[str, Any](), ""
    try:
        with with_methods(model, entry.methods):
            values = bench.measure(model, cell.task, cell.length)
    except ValueError as error:
        refused = str(error)
    except torch.OutOfMemoryError:
        refused = f"out of memory on {model.device}"
    return Row(
        method=cell.method,
        spec=" + ".join(map(repr, entry.methods)),
        task=cell.task,
        length=cell.length,
        values=values,
        refused=refused,
        seconds=round(time.perf_counter() - began, 3),
        seed=bench.settings["seed"],
        versions=versions(),
        hardware=hardware(model.device),
    )


@dataclass(frozen=True)
class Correlation:
    """How two columns of the study go together.

    Attributes:
        cells: Entries and lengths at which both were measured.
        pearson, spearman: Over all of them; None where one column does not vary.
        at_length: Spearman's over the entries at each length, where both vary.
    """

    one: str
    other: str
    cells: int
    pearson: float | None
    spearman: float | None
    at_length: Mapping[int, float]


def columns(results: Results) -> dict[str, dict[tuple[str, int], float]]:
    """What is correlated, higher is better: minus the nats, the needle, the mean of the tasks."""
    tasks = [
        t for t in dict.fromkeys(r.task for r in results.rows) if t not in (PERPLEXITY, NEEDLE)
    ]
    found: dict[str, dict[tuple[str, int], float]] = {}
    parts: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in results.rows:
        if row.refused:
            continue
        key = row.method, row.length
        if row.task == PERPLEXITY:
            found.setdefault("- loss", {})[key] = -row.values["nats"]
        elif row.task == NEEDLE:
            found.setdefault(NEEDLE, {})[key] = row.values["score"]
            found.setdefault("needle: - answer loss", {})[key] = -row.values["answer_nats"]
        else:
            pair = row.values["score"], -row.values["answer_nats"]
            parts.setdefault(key, []).append(pair)
    for key, pairs in parts.items():
        if len(pairs) == len(tasks):  # a mean over fewer tasks would be another one
            means = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
            found.setdefault("tasks", {})[key] = means[0]
            found.setdefault("tasks: - answer loss", {})[key] = means[1]
    return found


def correlations(results: Results) -> list[Correlation]:
    """Of every two columns of the study."""
    from scipy.stats import pearsonr, spearmanr

    def of(measure: Callable[..., Any], x: Sequence[float], y: Sequence[float]) -> float | None:
        if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
            return None
        return float(measure(x, y)[0])

    found, table = [], columns(results)
    names = list(table)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if one.split(":")[0] == other.split(":")[0]:
                continue
            keys = [key for key in table[one] if key in table[other]]
            x, y = ([table[name][key] for key in keys] for name in (one, other))
            by_length = {}
            for length in sorted({length for _, length in keys}):
                at = [k for k, key in enumerate(keys) if key[1] == length]
                value = of(spearmanr, [x[k] for k in at], [y[k] for k in at])
                if value is not None:
                    by_length[length] = value
            pair = of(pearsonr, x, y), of(spearmanr, x, y)
            found.append(Correlation(one, other, len(keys), *pair, by_length))
    return found
