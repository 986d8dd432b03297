"""A model that hands its queries and keys on as they are, so that whoever reads them turns them."""

import copy
import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from lengthwise.hf.methods import OwnMethods
from lengthwise.hf.release import CACHE, NAMES

_RENAMED = set(NAMES) - {CACHE}  # other releases' names of the cache
# What attention calls to rotate, in every family that is known.
ROTATE = {"apply_rotary_pos_emb", "apply_rotary_emb"}


class IdentityRotary(nn.Module):
    """Stands in for a rotary embedding: cos = 1 and sin = 0, in the shape the model expects."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        # Frequencies that follow the length change whenever they are asked: ask a copy.
        self.asked = copy.deepcopy(original)
        # One token's cosines and sines, by what was asked for.
        self._kinds: dict[Any, tuple[Tensor, Tensor] | Tensor] = {}

    def forward(
        self, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor] | Tensor:
        asked = (x.dtype, x.device, *args, *kwargs.values())
        found = self._kinds.get(asked)
        if found is None:
            with torch.inference_mode(False), torch.no_grad():  # they stay
                first, place = torch.empty_like(x[:1, :1]), position_ids.new_zeros(1, 1)
                turned = self.asked(first, place, *args, **kwargs)
                if isinstance(turned, tuple):
                    found = torch.ones_like(turned[0]), torch.zeros_like(turned[1])
                else:  # Llama 4's is one tensor of complex numbers
                    found = torch.ones_like(turned)
                self._kinds[asked] = found
        return found


class UnrotatedForward:
    """The forward of a kind of attention with no rotation in it: one by an angle of 0 costs time.

    It is the same code, which finds a function that changes nothing where it calls `ROTATE`.
    Whoever traces it may find the one of transformers there, which then turns by 0.
    """

    def __init__(self, kind: type[nn.Module]) -> None:
        self._kind = kind
        self._forward = _without_rotation(kind.forward)

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.keys().isdisjoint(_RENAMED):  # for the class's own to translate
            return self._kind.forward(module, *args, **kwargs)
        return self._forward(module, *args, **kwargs)

    def __reduce__(self) -> Any:
        return UnrotatedForward, (self._kind,)


def leave_unrotated(layers: nn.Module, own: Callable[..., Any] | None = None) -> list[OwnMethods]:
    """Let the attention modules of a model rotate nothing; whoever undoes the methods undoes it.

    A module whose forward is not its class's own, or does not call `ROTATE`, is left alone.

    Args:
        own: What stands in for their forward, if it is not the same code.
    """
    changed = []
    for module in layers.modules():
        forward = type(module).forward
        if "forward" in vars(module) or ROTATE.isdisjoint(_names(forward)):
            continue
        methods = OwnMethods(module)
        methods.put("forward", own or UnrotatedForward(type(module)))
        changed.append(methods)
    return changed


def _names(forward: Any) -> tuple[str, ...]:
    forward = inspect.unwrap(forward)  # since 5.24 a decorator translates the cache's old name
    return forward.__code__.co_names if isinstance(forward, FunctionType) else ()


@functools.cache
def _without_rotation(forward: Any) -> Callable[..., Any]:
    forward = inspect.unwrap(forward)
    there = {**forward.__globals__, **dict.fromkeys(ROTATE, _unchanged)}
    own = FunctionType(
        forward.__code__, there, forward.__name__, forward.__defaults__, forward.__closure__
    )
    return functools.update_wrapper(own, forward)


def _unchanged(q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return q, k
