"""The language-model head: what logits are made of, and a loss that needs none of them."""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss

from lengthwise.hf.families import read_logit_scale
from lengthwise.train.memory.loss import IGNORE, linear_cross_entropy


@dataclass(frozen=True)
class Head:
    """The last linear layer, weight `[v, d]`, and the soft cap of its logits, if any.

    Attributes:
        scale: What the logits are multiplied by, where there is no bias.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    scale: float = 1.0

    def scaled(self, hidden: Tensor) -> Tensor:
        """Hidden states whose product with the weight is the logits."""
        return hidden if self.scale == 1.0 else hidden * self.scale


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside peft's and accelerate's wrappers.

    Raises:
        ValueError: If there is none.
    """
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if hasattr(inner, "get_base_model"):  # peft
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "module", None), nn.Module):  # data parallel wrappers
            inner = inner.module
        else:
            raise ValueError(
                f"train.memory takes a transformers model or one that peft or accelerate wrapped, "
                f"got {type(model).__name__}"
            )
    return inner


def head_of(model: PreTrainedModel) -> Head:
    """The head of a causal language model.

    Raises:
        ValueError: If it is not a plain linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ValueError(
            f"the tiled loss needs a head that is a plain linear layer, got {type(head).__name__}; "
            "leave the head out of the adapter, or leave TiledLoss out"
        )
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(head.weight, head.bias, cap, read_logit_scale(config))


def refuse_loss(model: PreTrainedModel) -> None:
    """Raise ValueError unless the model's loss is the mean cross-entropy of its tokens."""
    head_of(model)
    if model.loss_function is not ForCausalLMLoss:
        name = getattr(model.loss_function, "__name__", repr(model.loss_function))
        raise ValueError(
            f"TiledLoss computes the cross-entropy per token, and {type(model).__name__}'s loss is "
            f"{name}; leave TiledLoss out, or use token_logps with a loss of your own"
        )


@contextmanager
def tiled_loss(model: PreTrainedModel, tokens: int) -> Iterator[None]:
    """Within the block, a forward with labels makes its loss in tiles and returns no logits.

    So it is where gradients are wanted: who turned them off evaluates, and gets the logits.
    """
    linear = model.get_output_embeddings()
    assert isinstance(linear, nn.Linear)
    whole, before = model.forward, model.__dict__.get("forward")
    signature = inspect.signature(whole)
    armed: list[Tensor | None] = []  # one entry while a forward with labels runs: its hidden states
    on = True

    @functools.wraps(whole)  # trainers read the signature
    def forward(*args: Any, **kwargs: Any) -> Any:
        labels = signature.bind_partial(*args, **kwargs).arguments.get("labels")
        if labels is None or not on or not torch.is_grad_enabled():
            return whole(*args, **kwargs)
        armed.append(None)
        try:
            return whole(*args, **kwargs)
        finally:
            armed.pop()

    def no_logits(hidden: Tensor) -> Tensor:
        if not armed:
            return nn.Linear.forward(linear, hidden)
        armed[-1] = hidden
        return hidden.new_empty(*hidden.shape[:-2], 0, linear.out_features)

    def loss(
        logits: Tensor,
        labels: Tensor,
        vocab_size: int,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = IGNORE,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        hidden = armed[-1] if armed else None
        if hidden is None:
            return ForCausalLMLoss(
                logits, labels, vocab_size, num_items_in_batch, ignore_index, shift_labels, **kwargs
            )
        if shift_labels is None:
            shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        targets = shift_labels.to(hidden.device).masked_fill(shift_labels == ignore_index, IGNORE)
        head = head_of(model)
        count = num_items_in_batch
        return linear_cross_entropy(
            head.scaled(hidden),
            head.weight,
            targets,
            bias=head.bias,
            softcap=head.softcap,
            count=count.to(hidden.device) if isinstance(count, Tensor) else count,
            tokens=tokens,
        )

    loss_before = model.__dict__.get("_loss_function")
    model.forward = forward
    linear.forward = no_logits  # type: ignore[method-assign,assignment]
    model.loss_function = loss
    try:
        yield
    finally:
        on = False
        # Accelerate's prepare, called inside the block, has wrapped our forward: its wrapper stays
        # and reaches the model's own through ours.
        if model.__dict__.get("forward") is forward:
            _restore(model, "forward", before)
        del linear.forward
        _restore(model, "_loss_function", loss_before)


def _restore(model: nn.Module, name: str, before: Any) -> None:
    model.__dict__.pop(name, None)
    if before is not None:
        model.__dict__[name] = before
