"""Rows of tokens as a function of (seed, step): a run that goes on needs no position in the data.

Step s of a run draws its rows from a permutation of the data set, a new one for every pass. How
many processes share a step changes nothing about its rows, so a run may go on with another number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lengthwise.train.data.collate import PackedCollator, document_lengths, refuse_masks
from lengthwise.train.data.pipeline import Progress, pack
from lengthwise.train.data.reading import BESIDE, first_line, is_lists
from lengthwise.train.data.state import is_complete
from lengthwise.train.data.weights import IGNORED
from lengthwise.train.loop.pairs import COLUMNS
from lengthwise.train.recipe import Recipe
from lengthwise.train.tuning.e2llm import SCALE

PER_TOKEN = ("labels", "impactful")  # columns of the data that are cut as the tokens are
LONG, SHORT, DRAWN, KINDS = range(4)  # what a generator is for
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A data set of rows.

    Attributes:
        rows: A `datasets.Dataset` with `input_ids`, and `seq_lengths` where documents count.
        usable: Numbers of the rows that are long enough.
        identity: Changes when the rows do.
    """

    rows: Any
    usable: np.ndarray
    identity: str


def open_source(
    recipe: Recipe, capacity: int, trained: int, least: int, folder: Path,
    progress: Progress | None,
) -> Source:  # fmt: skip
    """The rows of a packed data set, or of text that is packed into `folder` first.

    Args:
        capacity: Tokens of a row that is packed here.
        trained: Tokens that the model reads of a row; the longest must have half as many.
        least: Tokens below which a row is left out.

    Raises:
        ValueError: If there is no such data, or its rows are too short.
    """
    place = Path(recipe.data)
    if not _has_rows(place):
        if not is_complete(folder):
            pack(
                recipe.data, folder, capacity, tokenizer=recipe.base, seed=recipe.seed, slim=True,
                progress=progress,
            )  # fmt: skip
        place = folder
    rows = load_rows(place, ("input_ids", *BESIDE))
    lengths = row_lengths(rows)
    longest = int(lengths.max(initial=0))
    if longest < max(least, trained // 2):
        raise ValueError(
            f"the longest row of {recipe.data} has {longest:,} tokens and the recipe trains on "
            f"{trained:,}; pack longer documents with --capacity {capacity}, or write "
            f"length={longest}"
        )
    if needs_documents(recipe) and not {"seq_lengths", "segment_ids"} & set(rows.column_names):
        raise ValueError(no_documents(recipe))
    usable = np.flatnonzero(lengths >= least)
    return Source(rows, usable, str(rows._fingerprint))


def open_pairs(recipe: Recipe) -> Source:
    """Rows of preferences; see `pairs`.

    Raises:
        ValueError: If the data are something else.
    """
    place = Path(recipe.data)
    rows = load_rows(place, COLUMNS) if (place / "state.json").is_file() else None
    if rows is None or not set(COLUMNS) <= set(rows.column_names):
        raise ValueError(
            f"{recipe.data} holds no preferences: it must be a directory of datasets with the "
            f"columns {', '.join(COLUMNS)}; lengthwise.train.loop.pairs.answer_pairs makes them"
        )
    return Source(rows, np.arange(len(rows)), str(rows._fingerprint))


def _has_rows(place: Path) -> bool:
    """Whether a directory of `datasets` holds rows of tokens and not documents of text."""
    if not (place / "state.json").is_file():
        return False
    return "input_ids" in load_rows(place, ()).column_names


def load_rows(place: Path, columns: Sequence[str]) -> Any:
    """The data set that `datasets` saved in a directory.

    Args:
        columns: Those that are read; where they are there they hold lists of whole numbers.

    Raises:
        ValueError: If the files are damaged, or a column holds something else.
    """
    import pyarrow as pa
    from datasets import load_from_disk

    try:
        rows = load_from_disk(str(place))
        rows.data.validate(full=True)  # a damaged offset would be followed wherever it points
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever `datasets` runs into in files that it did not write so
        words = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{place} is damaged: {words}") from error
    schema = rows.data.schema
    for name in columns:
        if name not in rows.column_names:
            continue
        kind = schema.field(name).type
        numbers = is_lists(kind) and (
            pa.types.is_integer(kind.value_type)
            or pa.types.is_boolean(kind.value_type)
            or pa.types.is_null(kind.value_type)
        )
        if not numbers:
            raise ValueError(f"{place}: {name} holds {kind}; it must hold lists of whole numbers")
        if name in ("input_ids", *COLUMNS) and rows.data.column(name).null_count:
            raise ValueError(f"{place}: {name} is null in a row; leave such rows out")
    return rows


def row_lengths(rows: Any) -> np.ndarray:
    """Tokens of every row, from Arrow's offsets."""
    import pyarrow.compute as pc

    column = rows.with_format("arrow")[:]["input_ids"]
    return np.asarray(pc.list_value_length(column).to_numpy())


@dataclass(frozen=True)
class Step:
    """What one optimizer step trains on.

    Attributes:
        rows: Numbers of rows in the data set, of this process.
        numbers: The same rows, counted over the run: what their generators are seeded by.
        length: Tokens to take of each.
        short: Whether they are rows of the base's window in a run that mixes windows.
    """

    rows: tuple[int, ...]
    numbers: tuple[int, ...]
    length: int
    short: bool


@dataclass(frozen=True)
class Plan:
    """Which rows every step has.

    Args:
        usable: Numbers of rows that may be drawn.
        length, window: Tokens to take of long and of short rows.
        trained: Tokens that a long row becomes; with a transform they may be fewer.
    """

    recipe: Recipe
    usable: np.ndarray
    length: int
    window: int
    trained: int

    def rows(self, short: bool) -> int:
        """Rows of one step over all processes."""
        return max(1, self.recipe.step_tokens // (self.window if short else self.trained))

    def check(self, processes: int) -> None:
        """Raise ValueError unless the processes get equal shares of every step."""
        for short in (False, True) if self.recipe.short_share else (False,):
            if self.rows(short) % processes:
                size = self.window if short else self.trained
                raise ValueError(
                    f"a step has {self.rows(short)} rows of {size:,} tokens, which {processes} "
                    f"processes cannot share; write step_tokens={processes * size} or a multiple"
                )

    def step(self, number: int, rank: int = 0, processes: int = 1) -> Step:
        """The share of one process in step `number`, from 0."""
        recipe, count = self.recipe, len(self.usable)
        kinds = _kinds(recipe.seed, recipe.steps, recipe.short_share)
        short = bool(kinds[number])
        before = int((kinds[:number] == short).sum()) * self.rows(short)
        numbers = tuple(before + k for k in range(rank, self.rows(short), processes))
        kind = SHORT if short else LONG
        places = [divmod(one, count) for one in numbers]
        chosen = [int(self.usable[_order(count, recipe.seed, kind, e)[p]]) for e, p in places]
        return Step(tuple(chosen), numbers, self.window if short else self.length, short)


@lru_cache(maxsize=4)
def _order(count: int, seed: int, kind: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, kind, epoch]).permutation(count)


@lru_cache(maxsize=2)
def _kinds(seed: int, steps: int, share: float) -> np.ndarray:
    """Whether each step has short rows."""
    return np.random.default_rng([seed, KINDS]).random(steps) < share


def micro_batches(
    source: Source, step: Step, recipe: Recipe, transform: Any, factor: float, vocabulary: int
) -> tuple[list[dict[str, Tensor]], int]:
    """The batches of one step, each of `recipe.rows` rows, and the tokens in them.

    A batch has what `PackedCollator` makes. Where documents are joined, it has a mask of ones and
    no `segment_ids`, and positions are those of the row or of the transform.

    Args:
        factor: Target divided by the window, which rows with a scale of their own count from.

    Raises:
        ValueError: For tokens that the model does not have.
    """
    rows = []
    for row, number in zip(step.rows, step.numbers, strict=True):
        given = {name: value for name, value in source.rows[row].items() if value is not None}
        try:
            rows.append(_row(given, step, recipe, None if step.short else transform, number))
        except ValueError as error:
            raise ValueError(f"{recipe.data}, row {row:,}: {error}") from error
    collate = PackedCollator(weights=True)
    batches = []
    for first in range(0, len(rows), recipe.rows):
        some = rows[first : first + recipe.rows]
        batch = collate(some)
        batch |= _others(some, batch["input_ids"].shape[1])
        if recipe.documents == "joined":
            # Beside a mask, transformers takes no jump in positions for a document's beginning.
            batch["attention_mask"] = torch.ones_like(batch.pop("segment_ids"))
            batch["position_ids"] = _positions(some, batch["input_ids"].shape[1], factor)
        if recipe.weigh == "tokens":
            batch["loss_weights"] = (batch["labels"] != IGNORED).float()
        labels = batch["labels"]
        tokens = torch.cat([batch["input_ids"].flatten(), labels[labels != IGNORED]])
        outside = tokens[(tokens < 0) | (tokens >= vocabulary)]
        if len(outside):
            raise ValueError(
                f"{recipe.data} holds the token {int(outside[0])} and the model has {vocabulary}: "
                "it was made with another tokenizer; pack the documents with this model's"
            )
        batches.append(batch)
    return batches, sum(len(row["input_ids"]) for row in rows)


def _row(row: Row, step: Step, recipe: Recipe, transform: Any, number: int) -> dict[str, Any]:
    """A row cut to the step's length at a place of its own, and transformed."""
    if "input_ids" not in row:
        raise ValueError("it has no input_ids")
    ids = np.asarray(row["input_ids"])
    rng = np.random.default_rng([recipe.seed, DRAWN, int(step.short), number])
    start = int(rng.integers(0, max(1, len(ids) - step.length + 1)))
    stop = min(len(ids), start + step.length)
    cut: dict[str, Any] = {"input_ids": ids[start:stop]}
    for name in ("input_ids", *BESIDE):
        if None in row.get(name, ()):
            raise ValueError(f"{name} has a null; it must hold whole numbers")
    for name in PER_TOKEN:
        if name in row:
            if len(row[name]) != len(ids):
                raise ValueError(f"{name} must hold {len(ids)} numbers, got {len(row[name])}")
            cut[name] = np.asarray(row[name])[start:stop]
    lengths = document_lengths(row)
    _refuse_positions(row, lengths or [len(ids)])
    refuse_masks(row)
    if lengths is None and needs_documents(recipe):
        raise ValueError(no_documents(recipe))
    if transform is None or needs_documents(recipe):
        ends = np.cumsum(lengths or [len(ids)])
        inside = ends[(ends > start) & (ends < stop)] - start
        cut["seq_lengths"] = np.diff([0, *inside.tolist(), stop - start]).tolist()
    if transform is None:
        return cut
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    made: dict[str, Any] = transform(cut, generator)
    return {"seq_lengths": [len(made["input_ids"])], **made}  # joined, a row is one text


def _refuse_positions(row: Row, lengths: Sequence[int]) -> None:
    """Raise ValueError for positions of the data's own, which a run would not train on."""
    if "position_ids" not in row:
        return
    counted = np.concatenate([np.arange(n) for n in lengths])
    given = np.asarray(row["position_ids"])
    through = np.arange(len(given))
    if not (np.array_equal(given, counted) or np.array_equal(given, through)):
        raise ValueError(
            "the data have position_ids that do not count the tokens of each document; a run "
            "makes positions itself: name a transform, and leave the column out"
        )


def needs_documents(recipe: Recipe) -> bool:
    """Whether it matters where the documents of a row end; a joined row is read as one text."""
    return recipe.documents == "apart" or recipe.weigh == "documents"


def no_documents(recipe: Recipe) -> str:
    """What is said of rows that do not say where their documents end."""
    wanted = 'documents = "apart"' if recipe.documents == "apart" else 'weigh = "documents"'
    return (
        f"{recipe.data} has rows without seq_lengths, and {wanted} needs to know where documents "
        "end; let lengthwise pack write the rows (it takes each of these for one document), or add "
        "the column"
    )


def _positions(rows: Sequence[Row], width: int, factor: float) -> Tensor:
    """Positions `[b, width]` that go through the row; padding goes on after the last of them.

    The model's frequencies are divided by `factor`; a row that is to be read under another scale
    (E2-LLM) has its positions multiplied by the quotient, which need not be whole.
    """
    lines = []
    for row in rows:
        given = torch.as_tensor(row.get("position_ids", range(len(row["input_ids"]))))
        given = torch.cat([given, given[-1] + 1 + torch.arange(width - len(given))])
        lines.append(given * (factor / row[SCALE]) if SCALE in row else given)
    return torch.stack(lines)


def _others(rows: Sequence[Row], width: int) -> dict[str, Tensor]:
    """Columns that an objective asks for: a number a token, -1 where there is none, or a row."""
    known = ("input_ids", "position_ids", "segment_ids", "loss_weights", "seq_lengths", *PER_TOKEN)
    found = {}
    for name in rows[0]:
        if name not in (*known, SCALE):
            values = [row[name] for row in rows]
            if all(isinstance(value, int | float) for value in values):  # one for the row
                found[name] = torch.tensor(values)
                continue
            found[name] = torch.tensor([[*v, *[-1] * (width - len(v))] for v in values])
    return found
