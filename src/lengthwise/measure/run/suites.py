"""The suites by name: tasks and readings, how they are set, and how many items of each."""

import hashlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.measure import tasks
from lengthwise.measure.run.options import class_of, settings
from lengthwise.measure.run.rows import REFERENCE, Cell
from lengthwise.measure.statistics.effective import THRESHOLD
from lengthwise.measure.tasks import DocumentQA, Item, Passkey, Task
from lengthwise.measure.tasks.base import Reading
from lengthwise.measure.tasks.readings import Loss, Speed
from lengthwise.names import ADAPTIVE, ALONE, GRIDS, READINGS, suite_names

SHORTEST = 512  # tokens; shorter prompts hold no more than the question
_LEVELS = (512, 2048, 8192)  # output tokens of LongProc's procedures
_PROCEDURES: dict[str, Callable[..., Task]] = {
    "path": tasks.PathTraversal,
    "belief": tasks.BeliefTracking,
    "countdown": tasks.Countdown,
    "travel": tasks.TravelPlanning,
    "html": tasks.HtmlToTable,
    "pseudocode": tasks.PseudoToCode,
}


@dataclass(frozen=True)
class Suite:
    """Tasks and counts.

    Attributes:
        tasks: From a name to a task that asks, or to a reading.
        items: Of each task and length: so many, or in an adaptive suite at most; 0 is all that a
            set of a person's own has. A reading says itself how many stretches of text it reads.
        batch: Items between two looks at the scores of an adaptive suite.
        adaptive: Whether a length gets items only as long as its score may lie on either side of
            the threshold, and longer ones only where it lies above.
        threshold: The score that counts as still reading.
    """

    name: str
    tasks: Mapping[str, Task | Reading]
    items: int
    batch: int = 16
    adaptive: bool = False
    threshold: float = THRESHOLD

    def plan(self) -> dict[str, Any]:
        """What must stay the same for a measurement to be continued."""
        return {"batch": self.batch, "adaptive": self.adaptive, "threshold": self.threshold}

    def settings(self) -> dict[str, str]:
        """How every task is set, which must stay the same too; others may join."""
        return {name: _written(task) + _contents(task) for name, task in self.tasks.items()}

    def counts(self) -> dict[str, int]:
        """Items of every task and length at most, or samples of a reading."""
        return {name: self._count(task) for name, task in self.tasks.items()}

    def _count(self, task: Task | Reading) -> int:
        if isinstance(task, Reading):
            return task.samples
        # A set of a person's own has so many questions: asked again they would tell nothing new.
        most = getattr(task, "most", None)
        return self.items if most is None else min(self.items or int(most), int(most))

    def asking(self, name: str) -> Task:
        """The task of a name, which is no reading."""
        task = self.tasks[name]
        assert not isinstance(task, Reading)
        return task

    def cells(
        self, methods: Iterable[str], lengths: Sequence[int], only: Collection[Cell] | None = None
    ) -> list[Cell]:
        """What there is to measure, shortest first; of a reading the reference comes before the
        methods.

        Args:
            only: What to keep to; None is everything.
        """
        names, found = list(methods), []
        for length in sorted(set(lengths)):
            for name, task in self.tasks.items():
                if isinstance(task, Reading) and task.longest and length < max(lengths):
                    continue
                cells = [Cell(method, name, length) for method in names]
                cells = [cell for cell in cells if only is None or cell in only]
                if cells and isinstance(task, Reading) and task.reference is not None:
                    found.append(Cell(REFERENCE, name, length))
                found += cells
        return found

    def lengths(self, upto: int, window: int | None) -> list[int]:
        """Powers of two up to `upto`, and `upto` itself: from 512, or from a quarter of a longer
        window; where the effective length is sought, always from 512.

        Raises:
            ValueError: `upto` is below 512.
        """
        if upto < SHORTEST:
            raise ValueError(
                f"--lengths: the longest must be at least {SHORTEST} tokens, got {upto:,}; or "
                "write out the lengths that you want"
            )
        length = SHORTEST
        while not self.adaptive and window and 2 * length <= min(window // 4, upto):
            length *= 2
        found = []
        while length < upto:
            found.append(length)
            length *= 2
        return [*found, upto]


def _written(task: Task | Reading) -> str:
    """How a task is set, and which version of it."""
    version = getattr(task, "version", 1)
    return repr(task) + (f" version {version}" if version > 1 else "")


def _contents(task: Task | Reading) -> str:
    """What tells the contents of a person's files, which a task names, from others; "" without."""
    files = [
        path
        for value in vars(task).values()
        if isinstance(value, Path)
        for path in (sorted(value.rglob("*")) if value.is_dir() else [value])
        if path.is_file()
    ]
    if not files:
        return ""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return f" of {digest.hexdigest()[:12]}"


@dataclass(frozen=True)
class ScatteredPasskey(Passkey):
    """The passkey at a depth that is drawn for every item by itself, not spread evenly.

    Items that are drawn independently of each other can be tested while they come in.
    """

    def build(
        self, tokenizer: PreTrainedTokenizerBase, length: int, count: int, seed: int
    ) -> list[Item]:
        """`count` items of exactly `length` tokens; item i does not depend on their number.

        Raises:
            ValueError: As `Passkey`.
        """
        items = []
        for index in range(count):
            rng = random.Random(f"scattered {seed} {index}")
            one = Passkey(self.filler, depth=rng.random(), digits=self.digits)
            items += one.build(tokenizer, length, 1, rng.getrandbits(32))
        return items


def suite(
    name: str,
    filler: str,
    *,
    text: str | None = None,
    questions: Mapping[str, Path] | None = None,
    items: int | None = None,
    threshold: float = THRESHOLD,
) -> Suite:
    """The suite of a name, or of several suites and single tasks, as `quick,loss`.

    Args:
        filler: Hides the passkeys, and is read for the loss and the speed.
        text: A person's own prose, for every task that hides things in prose; None generates it.
        questions: A person's own questions for the two tasks of question answering: "squad" and
            "hotpot", files in these formats.
        items: Of each task and length, and stretches of text of the loss; None takes what the
            suite has, 10 of a single task and one stretch.

    Raises:
        ValueError: An unknown name, names that do not go together, fewer than one item, or a
            threshold out of range.
    """
    if items is not None and items < 1:
        raise ValueError(f"--items must be at least 1, got {items}")
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {threshold}")
    found: dict[str, Task | Reading] = {}
    counts, names = [1], suite_names(name)
    for one in names:
        more, count = _asked(one, filler, items or 1)
        for key, task in more.items():
            if found.setdefault(key, task) != task:
                raise ValueError(
                    f"--suite: {one} sets {key} differently than the names before it; measure them "
                    "into directories of their own"
                )
        counts.append(count)
    return Suite(
        name=",".join(names),
        tasks={key: _own(task, text, questions or {}) for key, task in found.items()},
        items=items or max(counts),
        adaptive=ADAPTIVE in names,
        threshold=threshold,
    )


def _own(task: Task | Reading, text: str | None, questions: Mapping[str, Path]) -> Task | Reading:
    """The task on a person's own text or questions, where it takes them."""
    if isinstance(task, DocumentQA):
        return replace(task, file=task.file or questions.get(task.form))
    if text is not None and isinstance(task, _PROSE):
        return replace(task, text=text)
    return task


_PROSE = (tasks.FLenQA, tasks.LVEval, tasks.LongSafety, tasks.NIAH, tasks.NoLiMa, tasks.TSort)


def _asked(spec: str, filler: str, samples: int) -> tuple[Mapping[str, Task | Reading], int]:
    """Tasks and items of each length, of one suite or task with its options."""
    name = spec.partition(":")[0]
    if name == spec and name not in (*GRIDS, *ALONE):
        return _plain(name, filler, samples)
    found: dict[str, Task | Reading] = {}
    for called, values in settings(spec).items():
        if name in (*GRIDS, *ALONE):
            found[called] = getattr(tasks, class_of(name))(**values)
        else:
            base: Any = _full(filler)[name]
            found[called] = replace(base, **values)
    return found, 10


def _plain(name: str, filler: str, samples: int) -> tuple[Mapping[str, Task | Reading], int]:
    """Tasks and items of each length, of one suite or task."""
    if name == "quick":
        return _quick(filler), 6
    if name == "ruler":
        return tasks.RULER, 20
    if name == ADAPTIVE:
        # The passkey, and one of each of RULER's four kinds. Their items are drawn independently
        # of each other, which the test of the effective length needs.
        kinds = {kind: tasks.RULER[kind] for kind in ("niah_multikey_2", "vt", "fwe", "qa_1")}
        return {"passkey": ScatteredPasskey(filler), **kinds}, 128
    if name == "full":
        return _full(filler), 10
    if name in READINGS:
        return {name: Loss(filler, samples) if name == "loss" else Speed(filler)}, 0
    return {name: _full(filler)[name]}, 10


def _quick(filler: str) -> dict[str, Task]:
    """Short answers, so that reading is what takes the time."""
    return {
        "passkey": Passkey(filler),
        "niah": tasks.NIAH(budget=16),
        "lines": tasks.Lines(),
        "longicl": tasks.LongICL(labels=8),
        "qa": DocumentQA(budget=16),
    }


def _full(filler: str) -> dict[str, Task]:
    return {
        **tasks.RULER,
        "passkey": Passkey(filler),
        "lines": tasks.Lines(),
        "nolima": tasks.NoLiMa(),
        "nolima_two_steps": tasks.NoLiMa(steps=2, distractor=True),
        "lveval": tasks.LVEval(),
        "tsort": tasks.TSort(),
        "best_answer": tasks.BestAnswer(),
        "needles": tasks.Threads(threads=3, clustered=True),
        "thread_forward": tasks.Threads(steps=4),
        "thread_backward": tasks.Threads(steps=4, direction="backward"),
        "threads": tasks.Threads(threads=2, steps=2, direction="random"),
        "branched_thread": tasks.Threads(steps=3, branches=3),
        "conditional_needles": tasks.ConditionalNeedles(),
        "flenqa_relations": tasks.FLenQA("relations"),
        "flenqa_rooms": tasks.FLenQA("rooms", "similar"),
        "flenqa_rules": tasks.FLenQA("rules", "repeated"),
        "longins_gist": tasks.LongIns("GIST"),
        "longins_list": tasks.LongIns("LIST"),
        "longins_limt": tasks.LongIns("LIMT"),
        "longicl": tasks.LongICL(),
        "longicl_grouped": tasks.LongICL(grouped=True),
        "m4le_explicit_single": tasks.M4LE("explicit single"),
        "m4le_semantic_single": tasks.M4LE("semantic single"),
        "m4le_explicit_multiple": tasks.M4LE("explicit multiple"),
        "m4le_semantic_multiple": tasks.M4LE("semantic multiple"),
        "m4le_global": tasks.M4LE("global"),
        "diffusion_together": tasks.DiffusionScope(diffusion="together"),
        "diffusion_scattered": tasks.DiffusionScope(diffusion="scattered"),
        "diffusion_worded": tasks.DiffusionScope(diffusion="worded"),
        "diffusion_linked": tasks.DiffusionScope(diffusion="linked"),
        "languages": tasks.InContextLanguage(),
        "lcfo": tasks.LCFO(),
        "hellobench": tasks.HelloBench(),
        "golden_thread": tasks.GoldenThread(),
        **{
            f"{name}_{level}": procedure(budget=level)
            for name, procedure in _PROCEDURES.items()
            for level in _LEVELS
        },
    }
