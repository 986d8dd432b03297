"""A row's experiment in a few lines: a model, methods side by side, and what must come out.

A bench is a model with texts and lengths; a trial is methods on it and findings. Losses and items
are those of `lengthwise.measure`, kept one by one in the bench's folder: what one trial measured
the next one reads, and a run that was interrupted goes on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lengthwise.files import write_text
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Evidence, Finding, share
from lengthwise.measure.cost.speed import cache_bytes
from lengthwise.measure.engines.reading import first_token, read_to_end, with_methods
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, Cell
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks.loss import in_window_losses
from lengthwise.measure.tasks.readings import stretch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lengthwise.extend.method import Method

PLAIN = "plain"


@dataclass(frozen=True)
class Bench:
    """A model and what it reads.

    Attributes:
        model: `demo`, or a name of experiments/real_models.py.
        texts: Pieces for the loss, at least 2, evenly spread over the text.
        length: Tokens of a piece.
        items: Passkeys of each length.
        dtype: Of the weights.
        inside: Whether the same tokens are read inside the window too, as the reference.
        window: Tokens that the reference sees: the same tokens, each with a context between half of
            that and all of it, read anew by the plain model. None is the trained window.
    """

    model: str
    texts: int
    length: int
    items: int = 20
    dtype: str = "float32"
    inside: bool = True
    window: int | None = None


class Found:
    """What was measured on a bench, under the names of a trial's methods."""

    def __init__(
        self,
        results: Results,
        bench: Bench,
        caches: Mapping[str, Sequence[int]],
        inside: Tensor | None,
    ) -> None:
        self.results, self.bench = results, bench
        self.caches = caches  # bytes after the first half of a piece and after all of it, by method
        self.inside = inside  # losses inside the bench's own window `[texts, length - 1]`

    def losses(self, method: str, start: int, end: int) -> Tensor:
        """Mean nats a token over positions `start` to `end - 1` of every piece, `[texts]`.

        Both ends are those of the blocks in which losses are kept, an eighth of the window.
        """
        block = next(row.values["block"] for row in self.results.readings if row.task == "loss")
        first, last = start // block, -(-end // block)
        if method == REFERENCE and self.inside is not None:
            return self.inside[:, max(first * block - 1, 0) : last * block - 1].double().mean(1)
        values = self.results.values(method, "loss", self.bench.length)
        rows = torch.tensor([one["losses"] for one in values], dtype=torch.float64)
        return rows[:, first:last].mean(1)

    def gap(self, method: str, other: str, start: int, end: int) -> Interval:
        """By how much the loss is above another's on the same tokens, paired over pieces."""
        return _mean(self.losses(method, start, end) - self.losses(other, start, end))

    def found(self, method: str, length: int) -> dict[str, float]:
        """How many passkeys of a length were found."""
        scores = self.results.scores(method, "passkey", length)
        return share(sum(scores), len(scores))

    def more(self, method: str, other: str, length: int) -> Interval:
        """The share of passkeys that is found beyond another's, paired over the same items."""
        mine, others = (self.results.scores(m, "passkey", length) for m in (method, other))
        return _mean(torch.tensor(mine) - torch.tensor(others))

    def numbers(self, methods: Sequence[str], lengths: Sequence[int]) -> dict[str, Any]:
        """Losses of every eighth of the pieces and shares of passkeys, for the file."""
        step = self.bench.length // 8
        read = {
            name: [
                round(float(self.losses(name, n * step, (n + 1) * step).mean()), 4)
                for n in range(8)
            ]
            for name in methods
            if self.results.values(name, "loss", self.bench.length)
            or (name == REFERENCE and self.inside is not None)
        }
        keys = {
            name: {str(length): self.found(name, length) for length in lengths}
            for name in methods
            if name != REFERENCE and lengths
        }
        return {"loss of every eighth of the pieces": read, "passkeys found": keys}


def _mean(values: Tensor) -> Interval:
    return bootstrap_mean(values, torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Trial:
    """Methods side by side on a bench, and what has to come out.

    Attributes:
        bench: Its name.
        methods: From a name to the method as the command line writes it, empty for the plain model.
        control: Which of them must do worse, in words.
        premise: That it does.
        findings: The claim.
        passkeys: Lengths, in tokens, of passkeys; none where none are asked.
        loss: Whether losses are read.
        caches: Whether the bytes of the cache are wanted, after half of a piece and all of it.
    """

    bench: str
    methods: Mapping[str, str]
    control: str
    premise: Callable[[Found], Finding]
    findings: Callable[[Found], Sequence[Finding]]
    passkeys: Sequence[int] = ()
    loss: bool = True
    caches: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


def carry_out(
    name: str,
    trial: Trial,
    bench: Bench,
    loaded: tuple["PreTrainedModel", "PreTrainedTokenizerBase"],
    text: str,
    folder: Path,
) -> Evidence:
    """Measure what the folder lacks, and judge.

    Args:
        name: The entry of the table of claims.
        loaded: The model of the bench, in evaluation mode, and its tokenizer.
        text: What is read, and hides the passkeys.
        folder: The bench's results.

    Raises:
        ValueError: As `lengthwise.measure.measure`.
        KeyboardInterrupt: Passed on; what is measured is kept.
    """
    from rich.console import Console

    from lengthwise.catalogue import parse_many
    from lengthwise.measure import LocalReader, Loss, Passkey, Suite, measure

    model, tokenizer = loaded
    reader = LocalReader(model, tokenizer, name=bench.model)
    loss = Loss(text, bench.texts, compared=bench.inside and bench.window is None)
    methods = {key: parse_many(spec) if spec else () for key, spec in trial.methods.items()}
    only = {Cell(key, "loss", bench.length) for key in methods if trial.loss}
    only |= {Cell(key, "passkey", length) for key in methods for length in trial.passkeys}
    results = measure(
        reader,
        Suite(trial.bench, {"loss": loss, "passkey": Passkey(text)}, bench.items),
        methods,
        sorted({cell.length for cell in only}),
        only=only,
        text=text,
        folder=folder,
        console=Console(stderr=True),
    )
    caches = {}
    if trial.caches:
        ids = stretch(tokenizer, text, bench.length, bench.texts, 0)
        caches = {key: held_bytes(model, ids, chosen) for key, chosen in methods.items()}
    inside = None
    if bench.window is not None and trial.loss:
        inside = read_inside(model, tokenizer, text, bench, folder)
    found = Found(results, bench, caches, inside)
    items = {"texts": bench.texts} if trial.loss else {}
    described = reader.describe()
    return evidence.of(
        claims()[name],
        model={key: described[key] for key in ("name", "fingerprint", "window", "dtype")},
        items={**items, **({"passkeys": bench.items} if trial.passkeys else {})},
        numbers=found.numbers([REFERENCE, *methods], trial.passkeys)
        | ({"bytes of the cache": caches} if caches else {}),
        findings=trial.findings(found),
        control=trial.control,
        premise=trial.premise(found),
        methods=dict(trial.methods),
        tokens_of_a_piece=bench.length,
        **trial.details,
    )


@torch.no_grad()
def held_bytes(model: "PreTrainedModel", ids: Tensor, methods: Sequence["Method"]) -> list[int]:
    """Bytes of the cache after half of a text `[1, t]` and after all of it."""
    held = []
    for length in (ids.shape[1] // 2, ids.shape[1]):
        with with_methods(model, methods):
            held.append(cache_bytes(read_to_end(model, ids[:, :length])[1]))
    return held


def read_inside(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    bench: Bench,
    folder: Path,
) -> Tensor:
    """Losses `[texts, length - 1]` with a context that fits the bench's window, kept by piece."""
    rows = []
    for sample in range(bench.texts):
        file = folder / f"inside-{bench.window}-{sample}.json"
        if not file.exists():
            ids = stretch(tokenizer, text, bench.length, bench.texts, sample)
            assert bench.window is not None
            losses = in_window_losses(model, ids, bench.window, first_token(tokenizer))
            write_text(file, json.dumps([round(x, 5) for x in losses[0].tolist()]))
        rows.append(torch.tensor(json.loads(file.read_text(encoding="utf-8"))))
    return torch.stack(rows)
