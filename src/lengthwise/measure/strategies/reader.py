"""A reader that puts its items to another by a strategy."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.method import Method
from lengthwise.measure.engines.base import Reader, Reply
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.strategies.base import Asking, Strategy, Unanswered, parted
from lengthwise.measure.tasks.base import Item
from lengthwise.names import ASKING


class StrategyReader:
    """Answers as its strategy says, through a reader: a model in this process, or a server.

    A reply's seconds, new tokens and tokens read are those of all prompts together. Strategies
    stand beside methods in a measurement: `adapt` takes either.

    Args:
        reader: Answers the prompts.
        strategy: None passes items on as they are, until `adapt` gives one.

    Raises:
        ValueError: A strategy that looks into the model, over a server, or a window that nobody
            names.
    """

    def __init__(self, reader: Reader, strategy: Strategy | None = None) -> None:
        self.inner, self.strategy = reader, strategy
        self.tokenizer: PreTrainedTokenizerBase = reader.tokenizer
        if strategy is not None:
            self.adapt(strategy)

    def describe(self) -> Mapping[str, Any]:
        """What the other reader says of itself."""
        return self.inner.describe()

    def adapt(self, *chosen: Method | Strategy) -> None:
        """Take a strategy, and fit methods into a model in this process.

        Raises:
            ValueError: Two strategies, or what the class says.
        """
        strategies = [one for one in chosen if isinstance(one, Strategy)]
        methods = [one for one in chosen if not isinstance(one, Strategy)]
        if len(strategies) > 1:
            names = " and ".join(type(one).__name__ for one in strategies)
            raise ValueError(f"{names} are two strategies; measure them beside each other")
        for one in strategies:
            if one.inside and not isinstance(self.inner, LocalReader):
                raise ValueError(
                    f"{type(one).__name__} looks into the model, and this one can only be asked; "
                    f"{', '.join(ASKING)} do that"
                )
            self._window(one)
        if methods:
            if not isinstance(self.inner, LocalReader):
                raise ValueError("methods are for a model in this process; a server has its own")
            self.inner.adapt(*methods)
        self.strategy = strategies[0] if strategies else None

    def restore(self) -> None:
        """Take strategy and methods out again."""
        self.strategy = None
        if isinstance(self.inner, LocalReader) and is_adapted(self.inner.model):
            self.inner.restore()

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        """One reply an item, in their order."""
        if self.strategy is None:
            yield from self.inner.answer(items)
            return
        workers = 1 if isinstance(self.inner, LocalReader) else getattr(self.inner, "parallel", 1)
        with ThreadPoolExecutor(workers) as pool:
            yield from (map if workers == 1 else pool.map)(self._reply, items)

    def ask(self, document: str, question: str, new: int) -> Reply:
        """The answer to one question about a document, of up to `new` tokens, and what it cost.

        Raises:
            ValueError: There is no strategy.
        """
        if self.strategy is None:
            raise ValueError("this reader has no strategy; give it one, or call answer")
        return self._answered(document, question, new)

    def _reply(self, item: Item) -> Reply:
        try:
            return self._answered(*parted(item.prompt), item.allowance)
        except ValueError as error:
            return Reply("", 0, None, 0.0, refused=str(error))

    def _answered(self, document: str, question: str, new: int) -> Reply:
        assert self.strategy is not None
        asking = Asking(self.inner, self._window(self.strategy))
        began, text, refused, again = time.perf_counter(), "", "", False
        try:
            text = self.strategy.answer(asking, document, question, new)
        except Unanswered as error:
            refused, again = error.reply.refused, error.reply.again
        except ValueError as error:
            refused = str(error)
        seconds = round(time.perf_counter() - began, 6)
        return Reply(
            text, asking.written, None, seconds, refused=refused, again=again, read=asking.read
        )

    def _window(self, strategy: Strategy) -> int:
        window = strategy.window or self.inner.describe().get("window")
        if not window:
            raise ValueError(
                f"{type(strategy).__name__}: the server does not say how long its window is; give "
                "it, as window=4096"
            )
        return int(window)
