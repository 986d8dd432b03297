"""Strategies on the command line: `--strategy chainofagents:window=2048`."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from lengthwise.cli.inputs import say
from lengthwise.cli.interrupt import work_begins
from lengthwise.names import ASKING, READINGS
from lengthwise.outline import outline
from lengthwise.specs import Room

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lengthwise.extend.method import Method
    from lengthwise.measure.engines.base import Reader
    from lengthwise.measure.strategies.base import Strategy

_HOME = "lengthwise.measure.strategies"


@cache
def room() -> Room:
    """All strategies."""
    names = [name for name in outline(_HOME, "__all__") if name != "StrategyReader"]
    return Room("strategy", dict.fromkeys(names, _HOME))


def check_strategies(
    specs: Sequence[str], names: Sequence[str], *, asked_only: bool, ray: bool
) -> None:
    """Refuse strategies that are none or that cannot be measured like this, before torch.

    Args:
        names: Of suites and tasks.
        asked_only: Whether the model is behind a URL.
        ray: Whether copies share the items.

    Raises:
        ValueError: Which, and what to do.
    """
    if not specs:
        return
    if readings := [name for name in names if name in READINGS]:
        raise ValueError(
            f"{readings[0]} is read from the model itself and --strategy is a way to ask: name a "
            "suite or tasks without it, as --suite quick"
        )
    if ray:
        raise ValueError("--strategy asks one model; leave --ray out")
    for spec in specs:
        check_strategy(spec, asked_only)


def check_strategy(spec: str, asked_only: bool = False) -> None:
    """Refuse one that is none, or one that looks into a model which can only be asked.

    Raises:
        ValueError: Why.
    """
    name = type(room().check(spec)).__name__
    if asked_only and name not in ASKING:
        raise ValueError(
            f"--strategy: {name} looks into the model, and a server can only be asked; "
            f"{', '.join(ASKING)} do that"
        )


def with_strategies(
    reader: "Reader", methods: "Mapping[str, Sequence[Method]]", specs: Sequence[str]
) -> "tuple[Reader, Mapping[str, Sequence[Method | Strategy]]]":
    """A reader that takes strategies, and the rows of a measurement: methods, then strategies.

    Raises:
        ValueError: A window that nobody names.
    """
    if not specs:
        return reader, methods
    from lengthwise.measure.strategies import StrategyReader

    strategies: dict[str, tuple[Strategy, ...]] = {
        spec.strip(): (room().parse(spec),) for spec in specs
    }
    taking = StrategyReader(reader)
    for chosen in strategies.values():
        taking.adapt(*chosen)
    taking.restore()
    return taking, {**methods, **strategies}


def answer_by(
    spec: str,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    question: str,
    new: int,
    chunk: int,
    chat: bool | None,
) -> None:
    """Print the answer to a question about a text, and on a terminal what it took.

    Raises:
        ValueError: The strategy refuses.
    """
    from lengthwise.measure.engines.local import LocalReader
    from lengthwise.measure.strategies import StrategyReader

    reader = StrategyReader(LocalReader(model, tokenizer, chunk, chat=chat), room().parse(spec))
    work_begins()
    reply = reader.ask(text, question, new)
    if reply.refused:
        raise ValueError(reply.refused)
    print(reply.text.strip())
    if sys.stderr.isatty():
        say(
            f"Read {reply.read:,} tokens and wrote {reply.tokens:,} in {reply.seconds:.1f} s, all "
            "prompts together."
        )
