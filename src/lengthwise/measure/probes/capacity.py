"""Information capacity: what a model's compression of text gains for its operations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.adapt import binding_of, compose, is_adapted
from lengthwise.extend.engine import Engine
from lengthwise.hf.families import read_geometry
from lengthwise.hf.other import HookBinding, kind_of, read_other_geometry
from lengthwise.hf.prompts import encode_prompt
from lengthwise.measure.cost.plan import count_weights
from lengthwise.measure.engines.reading import CHUNK
from lengthwise.measure.tasks.loss import losses_by_position

_LENGTHS = 64  # at which the keys of a query are counted


@dataclass(frozen=True)
class InformationCapacity:
    """What was measured of one model on one set of texts.

    A tokenizer with longer tokens has more bits of text in each, so it raises the capacity of the
    same model at the same loss for each byte.

    Source: Yuan et al. 2025 (arXiv:2511.08066), the definition in its abstract and code: bits of
    text less bits of loss, for each token, over the base-2 logarithm of the operations for each
    token; a bias that belongs to the texts is added to the gain.
    Differs from the source: tokens of all texts are pooled; attention is counted from the model's
    own heads, windows and methods.

    Attributes:
        tokens: Tokens that were predicted.
        text_bits: Bits of the text behind a token, mean.
        loss_bits: Bits that the model needs for a token, mean.
        flops: Operations for a token, mean over a text of the length read.
    """

    tokens: int
    text_bits: float
    loss_bits: float
    flops: float

    @property
    def gain(self) -> float:
        """Bits of a token that the model saves."""
        return self.text_bits - self.loss_bits

    def capacity(self, bias: float = 0.0) -> float:
        """Bits saved for each doubling of the operations; see `family_bias` for the bias."""
        return (self.gain + bias) / math.log2(self.flops)


@torch.no_grad()
def information_capacity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    length: int = 1024,
    chunk: int = CHUNK,
) -> InformationCapacity:
    """Measure it.

    Args:
        model: Of a supported family, adapted or not.
        texts: Each is read up to `length` tokens; those of fewer than two are left out.
        length: Tokens of a text at most, at least 2.

    Raises:
        ValueError: No text of two tokens, a length below 2, or a tokenizer that cannot say which
            characters a token stands for.
    """
    if length < 2:
        raise ValueError(f"length must be at least 2 tokens, got {length}")
    if not tokenizer.is_fast:
        raise ValueError(
            "the tokenizer cannot say which characters a token stands for (it is no fast one); "
            "load it with use_fast=True"
        )
    tokens, size, nats = 0, 0, 0.0
    for text in texts:
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids = encode_prompt(tokenizer, text)[:length]  # an end that is put behind is no text
        places = encoded["offset_mapping"][: len(ids)]
        if len(ids) < 2:
            continue
        # The first token is given: `<s>`, or else the text's own first token.
        size += len(text[places[1][0] : max(end for _, end in places)].encode())
        nats += float(losses_by_position(model, torch.tensor([ids]), chunk).double().sum())
        tokens += len(ids) - 1
    if not tokens:
        raise ValueError("there is no text with two tokens to measure on")
    return InformationCapacity(
        tokens,
        text_bits=8 * size / tokens,
        loss_bits=nats / tokens / math.log(2),
        flops=flops_per_token(model, length),
    )


def flops_per_token(model: PreTrainedModel, length: int) -> float:
    """Operations for one token, head included, on average over a text of `length` tokens.

    2 for each weight that a token is multiplied with, 4 for each number of a head and each key
    that the model, as it is adapted, reads.

    Raises:
        ValueError: A model that is not supported, or a length below 1.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    weights = count_weights(model)
    lengths = torch.linspace(1, length, min(length, _LENGTHS)).round().long().tolist()
    binding = binding_of(model) if is_adapted(model) else None
    if kind_of(model) is not None or isinstance(binding, HookBinding):
        geometry = read_other_geometry(model)
        read = len(geometry.layers) * sum(lengths)
    else:
        engine = binding.engine if binding else Engine(read_geometry(model), compose(()))
        geometry = engine.geometry
        read = sum(engine.keys_read(i, n) for i in range(len(geometry.layers)) for n in lengths)
    attention = 4 * geometry.heads * geometry.head_dim * read / len(lengths)
    return 2 * (weights.used + weights.head) + attention


def family_bias(family: Sequence[InformationCapacity]) -> float:
    """The bias that makes the capacities of one family's sizes as equal as it can.

    Least squares of the gain by the logarithm of the operations: the line's value at 0, negated.

    Source: Yuan et al. 2025 (arXiv:2511.08066): a negative bias, so that models of one series have
    nearly the same capacity.

    Args:
        family: Two sizes at least, measured on the same texts.

    Raises:
        ValueError: Fewer than two different sizes.
    """
    x = torch.tensor([math.log2(one.flops) for one in family], dtype=torch.float64)
    y = torch.tensor([one.gain for one in family], dtype=torch.float64)
    if len(family) < 2 or float(x.max() - x.min()) == 0:
        raise ValueError(f"a bias needs models of at least two sizes, got {len(family)}")
    slope = _slope(x, y)
    return float(slope * x.mean() - y.mean())


def _slope(x: Tensor, y: Tensor) -> Tensor:
    x = x - x.mean()
    return (x * (y - y.mean())).sum() / (x * x).sum()
