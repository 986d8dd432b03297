"""An evolutionary search that goes one evaluation at a time, and goes on after any end."""

import json
import math
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.extend.method import Scaling, whole
from lengthwise.files import write_text

FORMAT = 1
CHANGES = 0.3  # how likely a mutation changes one number: the paper's p
TRIES = 20  # draws of a candidate that is new
OF_RUN = ("evaluations", "generations", "seconds", "checkpoint", "on_step")  # its arguments


@dataclass(frozen=True)
class Genome:
    """A candidate: a factor for each rotated pair, never falling, and one whole number."""

    factors: tuple[float, ...]
    extra: int = 0


@dataclass(frozen=True)
class Trial:
    """A candidate that was evaluated; loss in nats."""

    genome: Genome
    loss: float


class Evolution(ABC):
    """Seeds, then generations: the best are kept, mutated and crossed.

    It is an arm of a race: `step` evaluates one candidate, `best` is the best so far, and
    `state_dict` goes into a file. A search that goes on from a state does what it would have
    done without a stop, to the bit.

    Source: Ding et al. 2024, arXiv:2402.13753, algorithm 1 and appendix; the authors' code.
    Differs from the source: a candidate that was tried already is drawn anew, at most 20 times.

    Args:
        loss: From a scaling to its loss in nats, the smaller the better.
        low, high: Smallest and largest factor of every pair, neither falling.
        population: Candidates of the first generation, at least 2.
        parents: Best ones that live on, from 2 to `population`.
        mutations, crossovers: New ones in each generation, at least 1 in all.
        seed: Of every draw.
        about: What else a state must agree in to be gone on with: model, texts, lengths.
    """

    def __init__(
        self,
        loss: Callable[[Scaling], float],
        low: tuple[float, ...],
        high: tuple[float, ...],
        *,
        population: int = 64,
        parents: int = 32,
        mutations: int = 16,
        crossovers: int = 16,
        seed: int = 0,
        about: dict[str, Any] | None = None,
    ) -> None:
        owner = type(self).__name__
        whole(owner, "population", population, 2)
        whole(owner, "parents", parents, 2)
        whole(owner, "mutations", mutations, 0)
        whole(owner, "crossovers", crossovers, 0)
        if parents > population or mutations + crossovers < 1:
            raise ValueError(
                f"{owner}: parents must be at most the population, and mutations and crossovers "
                f"at least 1 together, got {parents} of {population}, {mutations} and {crossovers}"
            )
        self._loss, self.low, self.high = loss, low, high
        self.population, self.parents = population, parents
        self.mutations, self.crossovers = mutations, crossovers
        self.about = {"search": owner, "seed": seed, "low": list(low), "high": list(high)}
        self.about |= {"sizes": [population, parents, mutations, crossovers], **(about or {})}
        self._rng = random.Random(seed)
        self.generation = 0
        self.evaluated: list[Trial] = []  # of all generations, in order
        self._alive: list[Trial] = []
        self._pending: list[Genome] = []
        self._seen: set[Genome] = set()
        self._first_generation()

    @abstractmethod
    def seeds(self) -> list[Genome]:
        """Candidates that the first generation begins with."""

    @abstractmethod
    def change_extra(self, genome: Genome) -> Genome:
        """The genome with its whole number changed, perhaps; it must be allowed."""

    @abstractmethod
    def scaling(self, genome: Genome) -> Scaling:
        """The method that a genome stands for, as it is evaluated."""

    @abstractmethod
    def result(self, genome: Genome) -> Scaling:
        """The method that a genome stands for, as it is used."""

    def allowed(self, genome: Genome) -> bool:
        """Whether factors never fall and keep to their bounds."""
        pairs = zip(genome.factors, self.low, self.high, strict=True)
        inside = all(low - 1e-9 <= value <= high + 1e-9 for value, low, high in pairs)
        return inside and all(
            a <= b for a, b in zip(genome.factors, genome.factors[1:], strict=False)
        )

    def step(self) -> Trial:
        """Evaluate one candidate."""
        if not self._pending:
            self._next_generation()
        genome = self._pending[0]
        loss = self._loss(self.scaling(genome))
        # Only now: a search that is interrupted within an evaluation has lost nothing else.
        self._pending.pop(0)
        trial = Trial(genome, loss if math.isfinite(loss) else math.inf)
        self.evaluated.append(trial)
        self._alive.append(trial)
        return trial

    @property
    def best_trial(self) -> Trial:
        """The best so far.

        Raises:
            ValueError: Before the first step.
        """
        if not self.evaluated:
            raise ValueError(f"{type(self).__name__} has tried nothing yet; call step() first")
        return min(self.evaluated, key=lambda trial: trial.loss)

    @property
    def best(self) -> Scaling:
        """The best method so far."""
        return self.result(self.best_trial.genome)

    @property
    def best_loss(self) -> float:
        """Its loss in nats on the search's own texts."""
        return self.best_trial.loss

    def run(
        self,
        *,
        evaluations: int | None = None,
        generations: int | None = None,
        seconds: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        on_step: Callable[["Evolution"], None] = lambda search: None,
    ) -> Scaling:
        """Step until a limit is met, counted from the search's very beginning but for seconds.

        Args:
            evaluations, generations, seconds: Limits, at least one; the first that is met ends it.
            checkpoint: A file that is written after every step, and gone on from if it exists.
            on_step: Called after every step.

        Raises:
            ValueError: Without a limit, or if the checkpoint belongs to another search.
        """
        if evaluations is None and generations is None and seconds is None:
            raise ValueError("a search needs a limit: evaluations, generations or seconds")
        if checkpoint is not None and Path(checkpoint).exists():
            self.load(checkpoint)
        begun = time.monotonic()
        longest = 0.0
        while True:
            if evaluations is not None and len(self.evaluated) >= evaluations:
                break
            if generations is not None and self.generation >= generations and not self._pending:
                break
            now = time.monotonic()
            if seconds is not None and self.evaluated and now - begun + longest > seconds:
                break
            self.step()
            longest = max(longest, time.monotonic() - now)
            if checkpoint is not None:
                self.save(checkpoint)
            on_step(self)
        return self.best

    def state_dict(self) -> dict[str, Any]:
        """All that a search needs to go on; it is JSON."""
        version, numbers, gauss = self._rng.getstate()
        return {
            "format": FORMAT,
            "about": self.about,
            "generation": self.generation,
            "evaluated": [[*_written(t.genome), t.loss] for t in self.evaluated],
            "alive": [[*_written(t.genome), t.loss] for t in self._alive],
            "pending": [_written(genome) for genome in self._pending],
            "rng": [version, list(numbers), gauss],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: If it is of another format or belongs to another search.
        """
        if state.get("format") != FORMAT:
            raise ValueError(f"a search of format {state.get('format')!r}; this reads {FORMAT}")
        theirs = state["about"]
        for name, ours in json.loads(json.dumps(self.about)).items():
            if theirs.get(name) != ours:
                raise ValueError(
                    f"the saved search has another {name}: {theirs.get(name)!r} instead of "
                    f"{ours!r}; remove the file to begin anew"
                )
        self.generation = state["generation"]
        self.evaluated = [Trial(_read(f, e), loss) for f, e, loss in state["evaluated"]]
        self._alive = [Trial(_read(f, e), loss) for f, e, loss in state["alive"]]
        self._pending = [_read(*entry) for entry in state["pending"]]
        self._seen = {trial.genome for trial in self.evaluated} | set(self._pending)
        version, numbers, gauss = state["rng"]
        self._rng.setstate((version, tuple(numbers), gauss))

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the state, whole or not at all."""
        write_text(Path(file), json.dumps(self.state_dict()))

    def load(self, file: str | os.PathLike[str]) -> None:
        """Go on from what `save` wrote.

        Raises:
            ValueError: If the file holds no search, or another one.
        """
        try:
            state = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot go on from {file}: {error}") from error
        if not isinstance(state, dict):
            raise ValueError(f"cannot go on from {file}: it holds no search")
        self.load_state_dict(state)

    def _first_generation(self) -> None:
        seeds = list(dict.fromkeys(self.seeds()))
        for genome in seeds:
            self._queue(genome)
        while len(self._pending) < self.population:
            parent = self._rng.choice(seeds)
            self._queue(self._fresh(self._mutated, parent))

    def _next_generation(self) -> None:
        self.generation += 1
        self._alive = sorted(self._alive, key=lambda trial: trial.loss)[: self.parents]
        living = [trial.genome for trial in self._alive]
        for _ in range(self.mutations):
            parent = self._rng.choice(living)
            self._queue(self._fresh(self._mutated, parent))
        for _ in range(self.crossovers):
            self._queue(self._fresh(self._crossed, *self._rng.sample(living, 2)))

    def _queue(self, genome: Genome) -> None:
        assert self.allowed(genome), genome
        self._seen.add(genome)
        self._pending.append(genome)

    def _fresh(self, child: Callable[..., Genome], *parents: Genome) -> Genome:
        for _ in range(TRIES):
            genome = child(*parents)
            if genome not in self._seen and self.allowed(genome):
                return genome
        # Two parents that do not mix, or a space that is nearly used up: it may come twice.
        return self._mutated(parents[0])

    def _mutated(self, genome: Genome) -> Genome:
        factors = list(genome.factors)
        last = len(factors) - 1
        for pair in range(len(factors)):
            if self._rng.random() < CHANGES:
                least = max(self.low[pair], factors[pair - 1] if pair else 0.0)
                most = min(self.high[pair], factors[pair + 1] if pair < last else math.inf)
                drawn = round(self._rng.uniform(least, most), 2)
                factors[pair] = min(max(drawn, least), most)
        return self.change_extra(Genome(tuple(factors), genome.extra))

    def _crossed(self, one: Genome, other: Genome) -> Genome:
        factors = [
            b if self._rng.random() < CHANGES else a
            for a, b in zip(one.factors, other.factors, strict=True)
        ]
        extra = other.extra if self._rng.random() < CHANGES else one.extra
        return Genome(tuple(factors), extra)


def searched(kind: Callable[..., Evolution], *what: Any, **arguments: Any) -> Scaling:
    """The best that a search finds; what `run` does not take of the arguments makes it."""
    limits = {name: arguments.pop(name) for name in OF_RUN if name in arguments}
    return kind(*what, **arguments).run(**limits)


def _written(genome: Genome) -> list[Any]:
    return [list(genome.factors), genome.extra]


def _read(factors: list[float], extra: int) -> Genome:
    return Genome(tuple(factors), extra)
