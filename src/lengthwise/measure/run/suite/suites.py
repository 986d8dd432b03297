"""The suites by name: tasks, how they are set, and how many items of each."""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.measure import tasks
from lengthwise.measure.statistics.effective import THRESHOLD
from lengthwise.measure.tasks import DocumentQA, Item, Passkey, Task
from lengthwise.names import SUITES

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
        tasks: From a name to the task.
        items: Of each task and length: so many, or in an adaptive suite at most.
        batch: Items between two looks at the scores of an adaptive suite.
        adaptive: Whether a length gets items only as long as its score may lie on either side of
            the threshold, and longer ones only where it lies above.
        threshold: The score that counts as still reading.
    """

    name: str
    tasks: Mapping[str, Task]
    items: int
    batch: int = 16
    adaptive: bool = False
    threshold: float = THRESHOLD

    def plan(self) -> dict[str, Any]:
        """What must stay the same for a measurement to be continued."""
        return {"batch": self.batch, "adaptive": self.adaptive, "threshold": self.threshold}

    def settings(self) -> dict[str, str]:
        """How every task is set, which must stay the same too; others may join."""
        return {name: repr(task) + _contents(task) for name, task in self.tasks.items()}

    def counts(self) -> dict[str, int]:
        """Items of every task and length at most.

        A set of a person's own has so many questions: asked again they would tell nothing new.
        """
        most = {name: getattr(task, "most", None) for name, task in self.tasks.items()}
        return {n: self.items if m is None else min(self.items, int(m)) for n, m in most.items()}

    def lengths(self, upto: int, window: int | None) -> list[int]:
        """Powers of two up to `upto`, and `upto` itself: from 512, or from a quarter of a longer
        window; where the effective length is sought, always from 512.

        Raises:
            ValueError: `upto` is below 512.
        """
        if upto < SHORTEST:
            raise ValueError(f"--upto must be at least {SHORTEST} tokens, got {upto:,}")
        length = SHORTEST
        while not self.adaptive and window and 2 * length <= min(window // 4, upto):
            length *= 2
        found = []
        while length < upto:
            found.append(length)
            length *= 2
        return [*found, upto]


def _contents(task: Task) -> str:
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
    """The suite of a name.

    Args:
        filler: Hides the passkeys.
        text: A person's own prose, for every task that hides things in prose; None generates it.
        questions: A person's own questions for the two tasks of question answering: "squad" and
            "hotpot", files in these formats.
        items: Of each task and length; None takes what the suite has.

    Raises:
        ValueError: An unknown name, fewer than one item, or a threshold out of range.
    """
    if name not in SUITES:
        raise ValueError(f"--suite: there is no suite {name!r}; choose from {', '.join(SUITES)}")
    if items is not None and items < 1:
        raise ValueError(f"--items must be at least 1, got {items}")
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {threshold}")
    plain, count = _plain(name, filler)
    return Suite(
        name=name,
        tasks={key: _own(task, text, questions or {}) for key, task in plain.items()},
        items=items or count,
        adaptive=name == "effective",
        threshold=threshold,
    )


def _own(task: Task, text: str | None, questions: Mapping[str, Path]) -> Task:
    """The task on a person's own text or questions, where it takes them."""
    if isinstance(task, DocumentQA):
        return replace(task, file=questions.get(task.form))
    if text is not None and isinstance(task, _PROSE):
        return replace(task, text=text)
    return task


_PROSE = (tasks.FLenQA, tasks.LVEval, tasks.NIAH, tasks.NoLiMa, tasks.TSort)


def _plain(name: str, filler: str) -> tuple[dict[str, Task], int]:
    """Tasks and items of each length."""
    if name == "quick":
        return _quick(filler), 6
    if name == "ruler":
        return dict(tasks.RULER), 20
    if name == "effective":
        # The passkey, and one of each of RULER's four kinds. Their items are drawn independently
        # of each other, which the test of the effective length needs.
        kinds = {kind: tasks.RULER[kind] for kind in ("niah_multikey_2", "vt", "fwe", "qa_1")}
        return {"passkey": ScatteredPasskey(filler), **kinds}, 128
    return _full(filler), 10


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
