"""What a recipe names beside methods: a transform, a layout and an objective, ready to be used."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from lengthwise.extend.adapt import adapt, is_adapted, restore
from lengthwise.train.data.segments import PER_DOCUMENT, document_attention
from lengthwise.train.loop.facts import Facts
from lengthwise.train.loop.subject import Subject
from lengthwise.train.memory import fit
from lengthwise.train.named import read_memory, room
from lengthwise.train.patterns import fit_pattern
from lengthwise.train.recipe import Recipe
from lengthwise.train.tuning import LongPO
from lengthwise.train.tuning.rows import PositionSynthesis


@dataclass(frozen=True)
class Parts:
    """What rows, attention and loss are in training.

    Attributes:
        source: Tokens of a row that the data must have.
        trained: Tokens of a row that the model reads.
        least: Tokens below which a row of the data is of no use.
    """

    recipe: Recipe
    transform: Any
    layout: Any
    objective: Any
    source: int
    trained: int
    least: int

    @property
    def pairs(self) -> bool:
        """Whether rows are preferences."""
        return isinstance(self.objective, LongPO)

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """What learns beside the model: the head of an objective."""
        make = getattr(self.objective, "modules", None)
        own = None if make is None else make(model)
        return [] if own is None else [own]


def build_parts(recipe: Recipe, facts: Facts) -> Parts:
    """The parts of a recipe for one base.

    Raises:
        ValueError: For an unknown part or option.
    """

    def build(kind: str) -> Any:
        words = getattr(recipe, kind)
        return room(kind).parse(facts.fill(words)) if words else None

    transform, objective = build("transform"), build("objective")
    if recipe.documents == "apart" and isinstance(transform, PositionSynthesis):
        raise ValueError(
            f'{type(transform).__name__} makes one text of a row, and documents = "apart" would '
            "cut it; leave one of the two out"
        )
    source, trained = row_lengths(recipe, transform, facts)
    if isinstance(objective, LongPO):
        for name in ("transform", "documents", "mixed_window", "short_share"):
            if getattr(recipe, name) != getattr(Recipe, name):
                raise ValueError(
                    f"{name}={getattr(recipe, name)!r} would not be read: LongPO reads rows of "
                    "preferences as they are; leave it out"
                )
        trained *= 2  # the chosen answer's text and the rejected one's
    least = trained if transform is not None and source > trained else 2
    return Parts(recipe, transform, build("layout"), objective, source, trained, least)


def row_lengths(recipe: Recipe, transform: Any, facts: Facts) -> tuple[int, int]:
    """Tokens of a row of the data, and of the row that the model reads.

    A transform with a window makes rows of it; one that knows the target as well takes them from
    texts of that length. One that knows the target alone is for rows of the base's window. Without
    either, rows are as long as the target.
    """
    window, target = getattr(transform, "window", None), getattr(transform, "target", None)
    if window is not None:
        return recipe.length or (window if target is None else facts.target), window
    length = recipe.length or (facts.target if target is None else facts.window)
    return length, length


@contextmanager
def in_training(model: nn.Module, subject: Subject, parts: Parts) -> Iterator[None]:
    """Attention and memory as the recipe has them; outside of it the model is dense and plain."""
    recipe, inner = parts.recipe, subject.inner
    adapted = is_adapted(inner)
    with ExitStack() as stack:
        if parts.layout is not None:
            if adapted:
                restore(inner)
                stack.callback(adapt, inner, *subject.methods)
            fit_pattern(inner, parts.layout, *(subject.methods if adapted else ()))
            stack.callback(restore, inner)
        elif recipe.documents == "apart" and not adapted:
            kernel = PER_DOCUMENT if inner.device.type == "cpu" else None
            stack.enter_context(document_attention(inner, kernel))
        if recipe.memory:
            stack.enter_context(fit(model, *read_memory(recipe.memory)))
        yield
