"""What ties a model without rotary positions to its scaling: hooks, and how to take them off."""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, float32, nn, promote_types
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lengthwise.hf.engine import ScoringEngine
from lengthwise.hf.methods import OwnMethods
from lengthwise.hf.release import CACHE, refuse_unknown_release, take_cache

Factor = float | Tensor


@dataclass
class Forward:
    """What the hooks of one forward share; threads have one each.

    Attributes:
        binding: Whose hooks they are.
        outer: The forward that this one runs inside of, if any.
        factor: The number for every row of its input.
        scaled: Tensors that all layers get, by their identity, beside what they are scaled to.
    """

    binding: object
    outer: "Forward | None"
    factor: Factor
    scaled: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


_RUNNING: ContextVar[Forward | None] = ContextVar("lengthwise_forward", default=None)


E = TypeVar("E", bound=ScoringEngine)


class HookBinding(Generic[E]):
    """Hooks on one model that multiply a part of its scores by a number for every row.

    Args:
        reader: The module whose forward sees the whole input and its mask.
    """

    def __init__(self, model: PreTrainedModel, engine: E, reader: nn.Module) -> None:
        refuse_unknown_release()
        self.engine = engine
        self._model_type = model.config.model_type
        self._signature = inspect.signature(reader.forward)
        self._fixed: Factor = engine.factor(None) if engine.static else 1.0
        self._hooks: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._refuse_documents, with_kwargs=True),
            reader.register_forward_pre_hook(self._before, with_kwargs=True),
            reader.register_forward_hook(self._after, always_call=True),
        ]
        self.methods = OwnMethods(model)
        object.__setattr__(model, "_lengthwise", self)

    def undo(self, model: PreTrainedModel) -> None:
        """Give the model back as it was."""
        for hook in self._hooks:
            hook.remove()
        self.methods.undo()
        del model._lengthwise

    def new_cache(self) -> Any:
        """There is none of ours.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{self._model_type} keeps transformers' own cache when it is adapted; leave it out, "
            f"or pass a transformers.DynamicCache as {CACHE}"
        )

    def _refuse_documents(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Layers get no documents, and transformers drops the keyword on the way."""
        if kwargs.get("segment_ids") is not None:
            raise ValueError(
                f"{self._model_type} reads one text a row and would see no borders of documents; "
                "read them as rows of their own, without segment_ids"
            )

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a forward: the factor of every row, where it depends on their lengths."""
        outer = _RUNNING.get()
        if outer is not None and outer.binding is self:  # it was interrupted and never ended
            outer = outer.outer
        running = Forward(self, outer, self._fixed)
        _RUNNING.set(running)
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        new = given.get("input_ids")
        new = given.get("inputs_embeds") if new is None else new
        if new is None:
            return  # transformers has its own words for it
        cache = take_cache(given)
        seen = 0 if cache is None else int(cache.get_seq_length())
        if seen:
            _check_rows(cache, new.shape[0])
        if self.engine.static:
            return
        if module.training and getattr(module, "gradient_checkpointing", False):
            raise ValueError(
                f"{self.engine.name} follows the length of each input and "
                "cannot run with gradient checkpointing, which runs layers again later; turn one "
                "of them off"
            )
        mask = given.get("attention_mask")
        running.factor = self.engine.factor(row_lengths(mask, new, seen + new.shape[1]))

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        """After a forward, also one that failed."""
        running = self._forward()
        if running is not None:
            _RUNNING.set(running.outer)

    def _forward(self) -> Forward | None:
        """The forward that runs in this thread; None where layers run again in a backward."""
        running = _RUNNING.get()
        return running if running is not None and running.binding is self else None

    @property
    def _factor(self) -> Factor:
        running = self._forward()
        return self._fixed if running is None else running.factor

    def _once(self, given: Tensor, scaled: Callable[[Tensor], Tensor]) -> Tensor:
        """`scaled(given)`, worked out for the first layer of a forward that gets this tensor."""
        running = self._forward()
        if running is None:
            return scaled(given)
        known = running.scaled.get(id(given))
        if known is None:  # the tensor is kept with its number, so that none else can have it
            known = running.scaled[id(given)] = (given, scaled(given))
        return known[1]


def _check_rows(cache: Any, rows: int) -> None:
    keys = getattr(cache.layers[0], "keys", None) if getattr(cache, "layers", None) else None
    if isinstance(keys, Tensor) and keys.shape[0] != rows:
        raise ValueError(
            f"the cache holds {keys.shape[0]} rows and the tokens have {rows}; pass as many rows "
            "as before, or take another cache"
        )


def row_lengths(mask: Tensor | None, new: Tensor, total: int) -> Tensor:
    """Real tokens of every row so far, `[b]`: those that a 2-D mask shows, or `total`.

    Raises:
        ValueError: For a mask that is not 2-D.
    """
    if mask is None:
        return torch.full((new.shape[0],), total)
    if mask.ndim != 2:
        raise ValueError(
            "a scaling that follows the length of the input needs a 2-D attention mask, got shape "
            f"{tuple(mask.shape)}"
        )
    return (mask != 0).sum(1)


def times(x: Tensor, factor: Factor) -> Tensor:
    """`x` times a number, or one for every row of its first dimension, in float32 at least."""
    if isinstance(factor, float):
        return x * factor
    each = factor.to(x.device, promote_types(x.dtype, float32)).view(-1, *[1] * (x.ndim - 1))
    return (x * each).to(x.dtype)
