"""Runs a measurement cell by cell; what is finished stays finished."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.method import Method
from lengthwise.files import hold
from lengthwise.hf.weights import fingerprint
from lengthwise.measure.cost.speed import reading_cost
from lengthwise.measure.engines.greedy import answers
from lengthwise.measure.engines.reading import (
    CHUNK,
    first_token,
    trained_window,
    with_methods,
)
from lengthwise.measure.run.environment import hardware, versions
from lengthwise.measure.run.results import (
    REFERENCE,
    Cell,
    Results,
    ResultsFile,
    Row,
    Unfinished,
    forget_unfinished,
)
from lengthwise.measure.statistics.intervals import wilson
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.loss import block_size, blocks, in_window_pieces, loss_pieces
from lengthwise.measure.tasks.passkey import Passkey

TASKS = ("loss", "passkey", "speed")


class _Bench:
    """The model, the text and the settings that all cells share."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        window: int,
        settings: Mapping[str, int],
        output: Path,
    ) -> None:
        self.model, self.tokenizer, self.window = model, tokenizer, window
        self.output = output
        self.settings = settings
        self.head = first_token(tokenizer)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        self.ids = torch.tensor(ids)
        self.passkey = Passkey(text)
        self._items: dict[int, list[Item]] = {}

    def texts(self, length: int, count: int) -> Tensor:
        """`[count, length]`: stretches of the text that do not overlap, each headed by `<s>`."""
        lead = [] if self.head is None else [self.head]
        size = length - len(lead)
        step = len(self.ids) // count
        rows = [self.ids[i * step : i * step + size] for i in range(count)]
        return torch.stack([torch.cat([torch.tensor(lead, dtype=torch.long), r]) for r in rows])

    def check_length(self, length: int, count: int) -> None:
        if count * length > len(self.ids):
            raise ValueError(
                f"the text has {len(self.ids):,} tokens, but the plan reads {count} times "
                f"{length:,}: give a longer text, or lengths up to {len(self.ids) // count:,}"
            )

    def items(self, length: int) -> list[Item]:
        """The passkey items of one length, the same for every method."""
        if length not in self._items:
            count, seed = self.settings["passkey_count"], self.settings["seed"]
            self._items[length] = self.passkey.build(self.tokenizer, length, count, seed)
        return self._items[length]

    def measure(self, cell: Cell, spec: str) -> dict[str, Any]:
        """The values of a cell, with the model as it is adapted now."""
        if cell.task == "loss":
            return self.loss(cell, Unfinished(self.output, cell, spec))
        return self.retrieve(cell.length) if cell.task == "passkey" else self.speed(cell.length)

    def loss(self, cell: Cell, kept: Unfinished) -> dict[str, Any]:
        chunk, length = self.settings["chunk"], cell.length
        block = block_size(length, self.window)
        losses = []
        for sample, ids in enumerate(self.texts(length, self.settings["loss_samples"]).split(1)):
            row = kept.of(sample)
            skip = max(len(row) * block - 1, 0)  # position 0 has no loss
            if cell.method == REFERENCE:
                pieces = in_window_pieces(self.model, ids, self.window, self.head, chunk, skip)
            else:
                pieces = loss_pieces(self.model, ids, chunk, skip)
            if len(row) * block < length:
                for fresh in blocks(pieces, block, len(row)):
                    fresh = [round(loss, 5) for loss in fresh]
                    kept.add(sample, fresh)
                    row += fresh
            losses.append(row)
        return {"block": block, "losses": losses}

    def retrieve(self, length: int) -> dict[str, Any]:
        items = self.items(length)
        replies = answers(self.model, self.tokenizer, items, self.settings["chunk"])
        scores = [
            self.passkey.score(reply, item) for reply, item in zip(replies, items, strict=True)
        ]
        interval = wilson(sum(scores), len(scores))
        return {
            "score": interval.value,
            "low": interval.low,
            "high": interval.high,
            "scores": scores,
            "depths": [item.record["depth"] for item in items],
            "answers": [item.answer for item in items],
            "replies": replies,
        }

    def speed(self, length: int) -> dict[str, Any]:
        ids = self.texts(length, 1)
        return vars(
            reading_cost(self.model, ids, self.settings["decode_steps"], self.settings["chunk"])
        )


def run_grid(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    methods: Mapping[str, Sequence[Method]],
    cells: Sequence[Cell],
    *,
    text: str,
    output: Path,
    name: str,
    seed: int = 0,
    loss_samples: int = 1,
    passkey_count: int = 10,
    decode_steps: int = 16,
    chunk: int = CHUNK,
    window: int | None = None,
    console: Console | None = None,
) -> Results:
    """Measure every cell that the output does not hold yet, and return all of them.

    Args:
        model: The untouched model, in evaluation mode.
        methods: From a name to the methods that `adapt` takes together; none is the plain model.
        cells: What to measure; see `grid`. For every length of a loss the reference with a
            context inside the window is measured too.
        text: Read for the loss and for the speed, and hides the passkeys.
        output: The file of results, JSON lines. One that is there already is continued, and may
            get more methods and lengths; the other settings must be the same.
        name: What to call the model in the report.
        seed: Draws the passkey items.
        loss_samples: Stretches of the text that the loss is averaged over.
        passkey_count: Items of each length, spread evenly over the depths.
        decode_steps: Tokens decoded for the speed.
        chunk: Tokens per forward pass.
        window: The trained window in tokens; None takes it from the configuration.
        console: Where progress is shown; None is the terminal.

    Raises:
        ValueError: A model that is adapted already, an unknown task or method, a text too short
            for the plan, an output of another plan or in use. A cell that raises ValueError is no
            error: it is recorded as refused.
        KeyboardInterrupt: Passed on, after saying how to go on.
    """
    console = console or Console()
    counts = {"loss_samples": loss_samples, "passkey_count": passkey_count}
    counts |= {"decode_steps": decode_steps, "chunk": chunk}
    for key, value in counts.items():
        if value < 1:
            raise ValueError(f"{key} must be at least 1, got {value!r}")
    if is_adapted(model):
        raise ValueError("run adapts the model itself; call lengthwise.restore(model) first")
    window = window or trained_window(model)
    bench = _Bench(model, tokenizer, text, window, counts | {"seed": seed}, output)
    cells = _with_references(cells)
    for cell in cells:
        if cell.task not in TASKS:
            raise ValueError(f"unknown task {cell.task!r}: choose from {', '.join(TASKS)}")
        if cell.method not in methods and cell.method != REFERENCE:
            raise ValueError(f"unknown method {cell.method!r}: the plan has {', '.join(methods)}")
        if cell.length < 2:
            raise ValueError(f"a length must be at least 2 tokens, got {cell.length}")
        if cell.task != "passkey":
            bench.check_length(cell.length, loss_samples if cell.task == "loss" else 1)
    if REFERENCE in methods:
        raise ValueError(f"{REFERENCE!r} is the name of the reference; call the method otherwise")
    plan = {
        "model": name,
        "fingerprint": fingerprint(model),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "window": window,
        "text": hashlib.sha256(text.encode()).hexdigest()[:12],
        "seed": seed,
        **counts,
    }
    with hold(output.parent):
        file = ResultsFile(output, plan)
        specs = {name: " + ".join(map(repr, chosen)) for name, chosen in methods.items()}
        _check_specs(file, specs)
        _measure_all(bench, file, methods, specs, cells, console)
        return file.results


def _with_references(cells: Sequence[Cell]) -> list[Cell]:
    references = [Cell(REFERENCE, "loss", c.length) for c in cells if c.task == "loss"]
    return list(dict.fromkeys(references + list(cells)))


def _check_specs(file: ResultsFile, specs: Mapping[str, str]) -> None:
    for row in file.results.rows:
        if specs.get(row.method, row.spec) != row.spec:
            raise ValueError(
                f"{file.path} measured {row.method!r} as {row.spec or 'the plain model'}, now it "
                f"is {specs[row.method] or 'the plain model'}; give it another name"
            )


def _effort(cell: Cell, settings: Mapping[str, int]) -> int:
    """About how many tokens a cell reads; the time left is judged by it."""
    if cell.task == "loss":
        return cell.length * settings["loss_samples"] * (2 if cell.method == REFERENCE else 1)
    return cell.length * (settings["passkey_count"] if cell.task == "passkey" else 2)


def _measure_all(
    bench: _Bench,
    file: ResultsFile,
    methods: Mapping[str, Sequence[Method]],
    specs: Mapping[str, str],
    cells: Sequence[Cell],
    console: Console,
) -> None:
    finished = {row.cell for row in file.results.rows}
    left = [cell for cell in cells if cell not in finished]
    if len(left) < len(cells):
        done = len(cells) - len(left)
        console.print(Text(f"{file.path}: {done} of {len(cells)} measurements are there already"))
    columns = (
        TextColumn("{task.description:<40}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
    )
    progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
    try:
        with progress:
            bar = progress.add_task("", total=sum(_effort(c, bench.settings) for c in left))
            for cell in left:
                label = f"{cell.task} {cell.length:,} · {cell.method}"
                progress.update(bar, description=label)
                chosen = methods.get(cell.method, ())
                row = _measure(bench, cell, chosen, specs.get(cell.method, ""))
                file.add(row)
                if row.refused:
                    progress.console.print(
                        f"[yellow]refused[/] {escape(label)}: {escape(row.refused)}"
                    )
                elif not console.is_terminal:
                    progress.console.print(Text(f"{label}: {row.seconds:.1f} s"))
                progress.advance(bar, _effort(cell, bench.settings))
        forget_unfinished(file.path)
    except KeyboardInterrupt:
        done = len(file.results.rows)
        words = (
            f"\nInterrupted. {file.path} keeps the {done} measurements that are finished, and the "
            "blocks of a loss that is not; run the same command again to go on from there."
        )
        console.print(escape(words), soft_wrap=True)
        raise


def _measure(bench: _Bench, cell: Cell, methods: Sequence[Method], spec: str) -> Row:
    began = time.perf_counter()
    values: dict[str, Any] = {}
    refused = ""
    try:
        with with_methods(bench.model, methods):
            values = bench.measure(cell, spec)
    except ValueError as error:
        refused = str(error)
    except torch.OutOfMemoryError:
        refused = f"out of memory on {bench.model.device}"
    return Row(
        method=cell.method,
        spec=spec,
        task=cell.task,
        length=cell.length,
        values=values,
        refused=refused,
        seconds=round(time.perf_counter() - began, 3),
        seed=bench.settings["seed"],
        versions=versions(),
        hardware=hardware(bench.model.device),
    )
