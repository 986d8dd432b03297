"""The controlled study of extension methods: one base, one text, the same items for all."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.checkpoint import load
from lengthwise.extend.method import Method
from lengthwise.measure.engines.greedy import with_answers
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.tasks import RULER, Lines, LongICL, Passkey, Threads
from lengthwise.measure.tasks.base import Reading, Task
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.measure.tasks.readings import check_text, stretch
from lengthwise.names import ANSWER, NEEDLE, PERPLEXITY


def study_suite(
    text: str,
    tasks: Sequence[str] = (NEEDLE, "niah_single_1", "vt"),
    samples: int = 1,
    items: int = 10,
    seed: int = 0,
) -> Suite:
    """Perplexity, needles and tasks, and with each task the loss of its right answers.

    Source: Lu et al. 2024 (arXiv:2409.12181): extension methods on one base, with the same data
    and budget, judged by perplexity, needle retrieval and tasks, and how the three go together.
    Differs from the source: untuned methods, unless a `Checkpoint` is one of them.

    Args:
        text: Read for the perplexity, and hides the needle.
        tasks: A needle among them; beside `needle` those of RULER, lines, threads and longicl.
        samples: Texts for the perplexity.
        items: Of every task and length.
        seed: That of the measurement.

    Raises:
        ValueError: An unknown task, or no item.
    """
    known: dict[str, Task] = {
        NEEDLE: Passkey(text),
        **RULER,
        "lines": Lines(),
        "threads": Threads(steps=2),
        "longicl": LongICL(labels=8),
    }
    if min(samples, items) < 1:
        raise ValueError(f"a study needs samples and items, got {samples} and {items}")
    found: dict[str, Task | Reading] = {PERPLEXITY: MeanLoss(text, samples)}
    for name in tasks:
        if name not in known:
            raise ValueError(f"unknown task {name!r}: choose from {', '.join(known)}")
        found |= {name: known[name], ANSWER + name: AnswerLoss(known[name], items, seed)}
    return Suite(name="study", tasks=found, items=items)


@dataclass(frozen=True)
class MeanLoss:
    """Mean nats per token of a text of every length; the perplexity is e to that.

    Args:
        text: What is read.
        samples: Stretches of it.
    """

    text: str = field(repr=False)
    samples: int = 1
    longest: ClassVar[bool] = False
    reference: ClassVar[None] = None

    def check(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        """See `check_text`."""
        check_text(tokenizer, self.text, length, self.samples)

    def measure(
        self,
        reader: LocalReader,
        length: int,
        sample: int,
        known: Sequence[float],
        keep: Callable[[Sequence[float]], None],
    ) -> Mapping[str, Any]:
        """The nats of one stretch.

        Raises:
            ValueError: A loss that is not a number.
        """
        ids = stretch(reader.tokenizer, self.text, length, self.samples, sample)
        losses = losses_by_position(reader.model, ids, reader.chunk)
        return {"nats": float(losses.double().mean())}


@dataclass(frozen=True)
class AnswerLoss:
    """Nats per token of the right answers: they say something where no reply is right.

    Args:
        task: Whose items are read.
        items, seed: As they are asked.
    """

    task: Task
    items: int
    seed: int
    samples: ClassVar[int] = 1
    longest: ClassVar[bool] = False
    reference: ClassVar[None] = None

    def check(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        """A length that is too short for the task is refused when it is read, like its items."""

    def measure(
        self,
        reader: LocalReader,
        length: int,
        sample: int,
        known: Sequence[float],
        keep: Callable[[Sequence[float]], None],
    ) -> Mapping[str, Any]:
        """The mean over all items.

        Raises:
            ValueError: A length that holds no item, or a loss that is not a number.
        """
        nats = [
            losses_by_position(reader.model, ids[None], reader.chunk)[:, -size:].double().mean()
            for ids, size in _answered(self, reader.tokenizer, length)
        ]
        return {"nats": float(sum(nats)) / len(nats)}


@lru_cache(maxsize=8)
def _answered(
    reading: AnswerLoss, tokenizer: PreTrainedTokenizerBase, length: int
) -> list[tuple[Tensor, int]]:
    items = reading.task.build(tokenizer, length, reading.items, reading.seed)
    return with_answers(tokenizer, items)


@dataclass(frozen=True)
class Checkpoint:
    """A tuned checkpoint in the place of the base; it stands where methods stand.

    Args:
        folder: Where it lies.
        fingerprint: Of what it holds, so that another one there is noticed.
    """

    folder: str
    fingerprint: str

    @classmethod
    def of(cls, folder: str) -> "Checkpoint":
        """The checkpoint that lies there, known by its files."""
        digest = hashlib.sha256()
        for file in sorted(path for path in Path(folder).iterdir() if path.is_file()):
            digest.update(f"{file.name}\0".encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return cls(folder, digest.hexdigest()[:12])


class StudyReader(LocalReader):
    """A reader that takes checkpoints like methods; one of them is kept at a time."""

    _base: PreTrainedModel | None = None
    _loaded: tuple[Checkpoint, PreTrainedModel] | None = None

    def adapt(self, *methods: Method | Checkpoint) -> None:
        """Fit methods in, or read with a checkpoint instead.

        Raises:
            ValueError: The checkpoint cannot be read.
        """
        (first, *others) = methods
        if not isinstance(first, Checkpoint):
            super().adapt(first, *(one for one in others if not isinstance(one, Checkpoint)))
            return
        if self._loaded is None or self._loaded[0] != first:
            self._loaded = None  # two at a time may be too many
            model, _ = load(first.folder, dtype=self.model.dtype)
            self._loaded = first, model.to(self.model.device).eval()
        self._base, self.model = self.model, self._loaded[1]

    def restore(self) -> None:
        """Take them out again."""
        if self._base is not None:
            self.model, self._base = self._base, None
        else:
            super().restore()
