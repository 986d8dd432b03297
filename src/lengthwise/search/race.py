"""A race over methods: everybody runs a little, the better ones run further, the clock decides."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lengthwise.extend.adapt import adapted, binding_of
from lengthwise.extend.explain import cache_bytes
from lengthwise.extend.method import Method
from lengthwise.files import write_text
from lengthwise.search.evolution import Evolution
from lengthwise.search.windows import Windows

FORMAT = 1
SEARCH_SHARE = 0.3  # of the time, for the arm that searches factors
SEARCH_STEPS = 96  # candidates that it tries at most


@dataclass(frozen=True)
class Rung:
    """What a candidate is asked at one height of the race.

    Attributes:
        texts, needles: Whose losses, in nats, are averaged into the score.
        keeps: How many go on from here.
    """

    texts: Windows
    needles: Windows
    keeps: int


@dataclass(frozen=True)
class Run:
    """A candidate at a rung; `refused` says why there is nothing else."""

    rung: int
    methods: str
    text_loss: float = math.inf
    needle_loss: float = math.inf
    seconds: float = 0.0
    refused: str = ""

    @property
    def score(self) -> float:
        """Half the loss on texts and half that on answers, in nats; the smaller the better."""
        return (self.text_loss + self.needle_loss) / 2


class Race:
    """Successive halving over methods, with a search of factors as one arm.

    The same model, texts, candidates and seed make the same choice, unless the clock ends one
    race earlier than the other. A race that was stopped goes on from its file.

    Args:
        model: Not adapted, in evaluation mode.
        candidates: Each a combination of methods.
        rungs: From the cheapest to the dearest.
        arm: A search whose best joins the last rung, or None.
        memory: Bytes that weights and cache may take at the length of the last rung; None is all.
        state: A file that is written after every run, and gone on from if it exists.
        about: What else a state must agree in to be gone on with: which model it is.

    Raises:
        ValueError: Without candidates or rungs, or for a file that is damaged or of another race.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        candidates: Sequence[tuple[Method, ...]],
        rungs: Sequence[Rung],
        *,
        arm: Evolution | None = None,
        memory: int | None = None,
        state: Path | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if not candidates or not rungs:
            raise ValueError("a race needs candidates and rungs")
        self.model, self.rungs, self.arm, self.memory = model, list(rungs), arm, memory
        self.candidates = {name_of(methods): methods for methods in candidates}
        self.field = list(self.candidates)  # what the search finds joins the last rung alone
        self.state = state
        self.runs: list[Run] = []
        self.about = {
            "candidates": self.field,
            "rungs": [[r.texts.fingerprint, r.needles.fingerprint, r.keeps] for r in self.rungs],
            "memory": memory,
            **(about or {}),
        }
        if state is not None and state.exists():
            self._load(state)

    def run(
        self, seconds: float, on_run: Callable[["Race", Run], None] = lambda race, run: None
    ) -> tuple[Method, ...]:
        """Race until the end or until the time is up, and return the winner.

        Args:
            seconds: At least one candidate runs, however short.
            on_run: Called after every run.
        """
        ends = time.monotonic() + seconds
        field = self.field
        for height, rung in enumerate(self.rungs):
            last = height == len(self.rungs) - 1
            if last and self.arm is not None:
                found = self._search(min(ends, time.monotonic() + SEARCH_SHARE * seconds), ends)
                if found is not None:
                    self.candidates[name_of(found)] = found
                    field = [*field, name_of(found)]
            for name in field:
                known = self._known(height, name)
                if known is None:
                    slowest = max((r.seconds for r in self.runs if r.rung == height), default=0.0)
                    if self.runs and time.monotonic() + slowest > ends:
                        return self.best
                    known = self._measure(height, rung, name)
                    self._keep(known)
                on_run(self, known)
            ranked = sorted((r for r in self.at(height) if not r.refused), key=lambda r: r.score)
            field = [r.methods for r in ranked[: rung.keeps]]
        return self.best

    def at(self, height: int) -> list[Run]:
        """The runs of one rung."""
        return [run for run in self.runs if run.rung == height]

    @property
    def best_run(self) -> Run:
        """The best of the highest rung on which two or more have run, else the best of the first.

        Raises:
            ValueError: If nothing has run.
        """
        for height in reversed(range(len(self.rungs))):
            ran = [run for run in self.at(height) if math.isfinite(run.score)]
            if len(ran) > 1 or (ran and height == 0):
                return min(ran, key=lambda run: run.score)
        raise ValueError("nothing has run yet that gives a loss")

    @property
    def best(self) -> tuple[Method, ...]:
        """The methods of the best run."""
        return self.candidates[self.best_run.methods]

    def _known(self, height: int, name: str) -> Run | None:
        return next((r for r in self.at(height) if r.methods == name), None)

    def _measure(self, height: int, rung: Rung, name: str) -> Run:
        methods = self.candidates[name]
        began = time.monotonic()
        try:
            self._check_memory(methods)
            text = rung.texts.loss(self.model, *methods)
            needle = rung.needles.loss(self.model, *methods)
        except ValueError as error:
            return Run(height, name, refused=str(error))
        return Run(height, name, text, needle, round(time.monotonic() - began, 3))

    def _check_memory(self, methods: tuple[Method, ...]) -> None:
        with adapted(self.model, *methods):
            held = cache_bytes(binding_of(self.model).engine, [self.rungs[-1].texts.length])
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        if self.memory is not None and held + weights > self.memory:
            raise ValueError(
                f"weights and cache take {(held + weights) / 2**30:.2f} GiB, more than the "
                f"{self.memory / 2**30:.2f} GiB allowed"
            )

    def _search(self, until: float, ends: float) -> tuple[Method, ...] | None:
        assert self.arm is not None
        longest = 0.0
        over = bool(self.at(len(self.rungs) - 1))  # for a race that was stopped on its last rung
        while not over and len(self.arm.evaluated) < SEARCH_STEPS:
            now = time.monotonic()
            if now + longest > until or (now >= ends and self.arm.evaluated):
                break
            self.arm.step()
            longest = max(longest, time.monotonic() - now)
            self._save()
        return (self.arm.best,) if self.arm.evaluated else None

    def _keep(self, run: Run) -> None:
        self.runs.append(run)
        self._save()

    def record(self) -> dict[str, Any]:
        """Everything that was tried; it is JSON, with null for a loss that is no number."""
        runs = [asdict(run) | {"score": run.score} for run in self.runs]
        for run in runs:
            run |= {k: None for k, v in run.items() if isinstance(v, float) and math.isinf(v)}
        arm = None if self.arm is None else self.arm.state_dict()
        return {"format": FORMAT, "about": self.about, "runs": runs, "arm": arm}

    def _save(self) -> None:
        if self.state is not None:
            write_text(self.state, json.dumps(self.record()))

    def _load(self, file: Path) -> None:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            known = isinstance(record, dict) and record.get("format") == FORMAT
            if not known or record["about"] != json.loads(json.dumps(self.about)):
                raise ValueError("it belongs to another race: another model, text, length or seed")
            for entry in record["runs"]:
                entry.pop("score")
                losses = {k: math.inf for k, v in entry.items() if v is None}
                self.runs.append(Run(**(entry | losses)))
            if self.arm is not None and record["arm"] is not None:
                self.arm.load_state_dict(record["arm"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"cannot go on from {file}: {error}; delete it to begin anew"
            ) from None


def name_of(methods: Sequence[Method]) -> str:
    """Methods as Python writes them; `plain` for none."""
    return " + ".join(map(repr, methods)) or "plain"
