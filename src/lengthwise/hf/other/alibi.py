"""ALiBi models (Bloom, MPT, Falcon): the slopes of their linear biases times a factor.

Their layers take the finished bias as a keyword. A hook on every layer hands it a scaled one;
facts of transformers that this rests on are tests: tests/hf/test_alibi.py.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lengthwise.hf.other.binding import E, HookBinding, times


class AlibiBinding(HookBinding[E]):
    """Hooks that scale the bias of every layer; keys hold no position, so the cache stays valid.

    Raises:
        ValueError: For a class of model without layers to bind.
    """

    def __init__(self, model: PreTrainedModel, engine: E) -> None:
        base: Any = model.base_model
        blocks = base.blocks if model.config.model_type == "mpt" else base.h
        hook = {"bloom": self._bloom, "mpt": partial(self._mpt, base), "falcon": self._falcon}
        self._heads = model.config.num_attention_heads
        super().__init__(model, engine, base)
        for block in blocks:
            self._hooks.append(
                block.register_forward_pre_hook(hook[model.config.model_type], with_kwargs=True)
            )

    def _rows(self, bias: Tensor) -> Tensor:
        """A bias `[b · heads, 1, keys]` or `[b, heads, 1, keys]`, scaled, in its own shape."""
        rows = bias.view(-1, self._heads, *bias.shape[-2:])
        return times(rows, self._factor).view(bias.shape)

    def _bloom(self, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "alibi": self._once(kwargs["alibi"], self._rows)}

    def _falcon(self, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        bias = self._once(kwargs["alibi"], self._rows)
        mask = self._once(kwargs["attention_mask"], self._unmasked)
        return args, {**kwargs, "alibi": bias, "attention_mask": mask}

    def _unmasked(self, mask: Tensor) -> Tensor:
        """Falcon's mask with the bias inside, `[b, heads, q, k]`: what hides a key stays."""
        hidden = mask == torch.finfo(mask.dtype).min
        return torch.where(hidden, mask, times(mask, self._factor))

    def _mpt(self, base: Any, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        keys = kwargs["attention_mask"].shape[-1]

        def scaled(bias: Tensor) -> Tensor:
            """`[heads, 1, keys]`, and of the text's length where that is beyond the window."""
            if keys > bias.shape[-1]:
                bias = base.build_mpt_alibi_tensor(self._heads, keys, device=bias.device)
            factor = self._factor
            if isinstance(factor, float):
                return times(bias, factor)
            if (factor != factor[0]).any():
                raise ValueError(
                    "MPT's layers take one bias for all rows, so a scaling that follows the length "
                    "needs rows of equal length; read them one by one, or use ALiBiPI(factor)"
                )
            return times(bias, float(factor[0]))

        return args, {**kwargs, "position_bias": self._once(kwargs["position_bias"], scaled)}
