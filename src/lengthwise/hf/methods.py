"""Methods of one model that are ours while it is adapted."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn


class OwnMethods:
    """Functions that stand in for methods of one model, and what stood there before.

    They are partials and neither closures nor bound methods: a copy of the model, deep or pickled,
    must call the function with the copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._before: dict[str, Any] = {}

    def put(self, name: str, function: Callable[..., Any]) -> None:
        """Let `model.name(…)` call `function(model, …)`."""
        self._before[name] = self._model.__dict__.get(name)
        setattr(self._model, name, functools.partial(function, self._model))

    def before(self, name: str) -> Callable[..., Any]:
        """The method that `function` stands in for."""
        own = self._before[name]
        return own or functools.partial(getattr(type(self._model), name), self._model)

    def undo(self) -> None:
        """Put back what stood there."""
        for name, own in self._before.items():
            delattr(self._model, name)
            if own is not None:
                setattr(self._model, name, own)
