"""VCC: important tokens whole, the rest of a text in a few blocks and the means of the others."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from lengthwise.core.attention.reference import at_least_float32
from lengthwise.extend.method import whole


@dataclass(frozen=True)
class VCC:
    """Layers of an encoder see the first tokens whole, and of the others the blocks that matter.

    The first `vip` tokens (a class token, a question) are always there. The others come in blocks;
    the `fine` blocks to whose means the first tokens attend most are there whole, every other block
    is its mean, which counts for as many keys as it stands for. After the layer a token of such a
    block has moved as far as its block's mean.

    Source: Zeng et al. 2023, arXiv:2305.04241, sections 4 and 5; the selector as in the public
        code, from the layer's own projections.
    Differs from the source: blocks are chosen anew in every layer, and none at random in training.
    Reduces to: the layer itself with all blocks fine.

    Args:
        vip: First tokens that are never compressed, at least 1.
        block: Tokens of a block, at least 1.
        fine: Blocks that are kept whole, at least 0.
        start: First layer that compresses, at least 0; the paper's first four do not.

    Raises:
        ValueError: If a number is out of its range; on `compress`, for another model than BERT's
            or RoBERTa's kind.
    """

    vip: int = 1
    block: int = 16
    fine: int = 44
    start: int = 0

    def __post_init__(self) -> None:
        for name, least in (("vip", 1), ("block", 1), ("fine", 0), ("start", 0)):
            whole("VCC", name, getattr(self, name), least)

    @contextmanager
    def compress(self, model: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """Compress in the layers of an encoder within a `with` block."""
        encoder: Any = getattr(model.base_model, "encoder", None)
        layers: Any = getattr(encoder, "layer", None)
        usable = layers is not None and hasattr(layers[0], "attention")
        if not usable or model.config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(
                "VCC compresses encoders of BERT's and RoBERTa's kind under the sdpa or eager "
                f"kernel, got {model.config.model_type} under {model.config._attn_implementation}"
            )
        encoder.layer = nn.ModuleList(
            VCCLayer(layer, self) if number >= self.start else layer
            for number, layer in enumerate(layers)
        )
        try:
            yield model
        finally:
            encoder.layer = layers


class VCCLayer(nn.Module):
    """One encoder layer that is run on fewer states than there are tokens."""

    def __init__(self, layer: Any, settings: VCC) -> None:
        super().__init__()
        self.layer, self.settings = layer, settings

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kw: Any
    ) -> Tensor:
        vip, size = self.settings.vip, self.settings.block
        b, n, d = hidden_states.shape
        real = _real(attention_mask, b, n, hidden_states)
        first, rest = hidden_states[:, :vip], hidden_states[:, vip:]
        if rest.shape[1] == 0:
            out: Tensor = self.layer(hidden_states, attention_mask, *args, **kw)
            return out
        missing = -rest.shape[1] % size
        blocks = pad(rest, (0, 0, 0, missing)).unflatten(1, (-1, size))  # [b, blocks, size, d]
        kept = pad(real[:, vip:], (0, missing)).unflatten(1, (-1, size))
        count = kept.sum(-1)
        means = (blocks * kept[..., None]).sum(2) / count.clamp(min=1)[..., None]
        order, trust = self._order(first, means, real[:, :vip], count > 0)
        fine = min(self.settings.fine, blocks.shape[1])
        whole_ones, others = order[:, :fine], order[:, fine:]
        row = torch.arange(b, device=order.device)[:, None]
        states = torch.cat(
            [first, blocks[row, whole_ones].flatten(1, 2), means[row, others]], dim=1
        )
        # A mean stands for its tokens: each of them would have had its score.
        weight = torch.cat(
            [real[:, :vip], kept[row, whole_ones].flatten(1, 2), count[row, others]], dim=1
        )
        lowest = torch.finfo(states.dtype).min
        bias = weight.to(states.dtype).log().clamp(min=lowest)[:, None, None]
        bias = bias.expand(-1, 1, states.shape[1], -1)
        moved = self.layer(states, bias, *args, **kw)
        change = moved - states
        wide = fine * size
        in_fine = change[:, vip : vip + wide].unflatten(1, (fine, size)) if fine else None
        updated = torch.zeros_like(blocks)
        if in_fine is not None:
            updated = updated.index_put((row, whole_ones), in_fine * trust[row, whole_ones])
        in_means = change[:, vip + wide :][:, :, None].expand(-1, -1, size, -1)
        updated = updated.index_put((row, others), in_means * (2 - trust[row, others]))
        tokens = (blocks + updated).flatten(1, 2)[:, : n - vip]
        return torch.cat([moved[:, :vip], tokens], dim=1)

    def _order(
        self, first: Tensor, means: Tensor, vip_real: Tensor, full: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Blocks by how much the first tokens attend to their means; factors of 1 with a gradient.

        The factor of a block that is kept whole is `1 + u - u`, the second u without gradient, and
        `1 - u + u` for the others: through them the choice is learned.
        """
        attention = self.layer.attention.self
        heads = attention.num_attention_heads
        q = attention.query(first).unflatten(-1, (heads, -1)).transpose(1, 2)
        k = attention.key(means).unflatten(-1, (heads, -1)).transpose(1, 2)
        # Widened first: a product in float16 ends at 65,504.
        score = at_least_float32(q) @ at_least_float32(k).transpose(-1, -2) / q.shape[-1] ** 0.5
        lowest = torch.finfo(score.dtype).min
        share = torch.softmax(score.masked_fill(~full[:, None, None], lowest), dim=-1).mean(1)
        share = (share * vip_real[..., None]).mean(1)
        likely = torch.softmax(torch.log(share + 1e-5), dim=-1)
        order = share.masked_fill(~full, -1.0).argsort(dim=1, descending=True, stable=True)
        return order, (1 + likely - likely.detach()).to(first.dtype)[..., None, None]


def _real(mask: Tensor | None, b: int, n: int, like: Tensor) -> Tensor:
    """Which tokens are no padding `[b, n]`, from what transformers made of the mask."""
    if mask is None:
        return torch.ones(b, n, dtype=torch.bool, device=like.device)
    row = mask[:, 0, -1] if mask.ndim == 4 else mask
    real = row if row.dtype == torch.bool else row >= 0
    return real.expand(b, n)
