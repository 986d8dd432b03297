"""For methods that need logits: how likely every token was, told once its piece was read.

A store that drops keys by such numbers needs them before it is handed more tokens, and they are
known when the whole decoder has run. So the decoder's forward is cut where keys are dropped.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lengthwise.hf.cache import LengthwiseCache
from lengthwise.hf.families import read_logit_scale
from lengthwise.hf.methods import OwnMethods

LOGITS = 1 << 22  # that are held at a time


class Teller:
    """Stands in for the forward of a decoder whose engine has layers to be told.

    Args:
        model: Has the output head.
        name: The keyword in which the binding hands down its call.
    """

    def __init__(self, model: PreTrainedModel, base: nn.Module, name: str) -> None:
        self.model, self.name = model, name
        self.methods = OwnMethods(base)
        self.methods.put("forward", self.forward)

    def forward(self, base: nn.Module, **given: Any) -> Any:
        """The decoder's forward, piece by piece; what it returns is that of one."""
        own, call = self.methods.before("forward"), given.get(self.name)
        if call is None:
            return own(**given)
        ids, store = given.get("input_ids"), type(call.engine.axes.store).__name__
        if ids is None:
            raise ValueError(
                f"{store} keeps tokens by how likely they were, which inputs_embeds do not say; "
                "pass input_ids"
            )
        if base.training and getattr(base, "is_activation_checkpointing", False):
            raise ValueError(
                f"{store} is told how likely tokens were and cannot run with gradient "
                "checkpointing, which runs layers again later; turn one of them off"
            )
        cache = call.cache or call.binding.new_cache()  # for this forward alone
        begun = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        if cache.past.lengths is not None:
            begun = cache.past.lengths > 0
        given = {**given, "position_ids": None, "attention_mask": None}
        outs = []
        for low, high, due in call.engine.pieces(call.step, cache.past.lengths):
            if call.cache is not None:
                cache.expect()
            piece, step = ids[:, low:high], call.step.times(low, high)
            mine = call.of(step, cache)
            out = own(**{**given, "input_ids": piece, self.name: mine})
            with torch.inference_mode(False), torch.no_grad():
                real = step.positions >= 0
                before, cache.predictor = predictors(out[0], real, cache.predictor)
                known = real & (begun[:, None] | (real.cumsum(1) > 1))
                surprise = torch.zeros(piece.shape, dtype=torch.float64, device=piece.device)
                surprise[known] = self.surprise(before[known], piece[known])
                states = [layer.state for layer in cache.layers]
                call.engine.tell(states, piece, surprise, due)
            begun = begun | real.any(1)
            outs.append(out)
        return joined(outs)

    def surprise(self, hidden: Float[Tensor, "n d"], ids: Int[Tensor, " n"]) -> Tensor:
        """Minus the log-probability of tokens, in nats, from what predicts them; in tiles."""
        head: Any = self.model.get_output_embeddings()
        config = self.model.config.get_text_config()
        cap, scale = getattr(config, "final_logit_softcapping", None), read_logit_scale(config)
        size = max(1, LOGITS // config.vocab_size)
        found = [torch.zeros(0, dtype=torch.float64, device=ids.device)]
        for states, targets in zip(hidden.split(size), ids.split(size), strict=True):
            logits = head(states)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale
            if cap is not None:
                logits = cap * torch.tanh(logits / cap)
            own = logits.gather(1, targets.to(logits.device)[:, None])[:, 0]
            found.append((logits.logsumexp(1) - own).to(ids.device, torch.float64))
        return torch.cat(found)


def predictors(
    hidden: Float[Tensor, "b t d"], real: Bool[Tensor, "b t"], last: Float[Tensor, "b d"] | None
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b d"]]:
    """The state behind each row's real token before every token, and behind its last one so far.

    Args:
        last: The latter before; None where nothing was read.
    """
    first = torch.zeros_like(hidden[:, 0]) if last is None else last
    states = torch.cat([first[:, None], hidden], dim=1)
    columns = torch.arange(1, states.shape[1], device=hidden.device)
    newest = torch.where(real, columns, 0).cummax(1).values
    index = torch.nn.functional.pad(newest, (1, 0))[..., None]
    chosen = states.gather(1, index.expand(-1, -1, states.shape[2]))
    return chosen[:, :-1], chosen[:, -1].clone()


def joined(outs: Sequence[Any]) -> Any:
    """What a forward returns, from what those over its pieces return: `[b, t, …]` end to end."""
    first = outs[0]
    if len(outs) == 1:
        return first
    if isinstance(first, ModelOutput):
        each = {name: joined([out[name] for out in outs]) for name in first}
        return type(first)(**each)
    if isinstance(first, tuple):
        return tuple(joined(some) for some in zip(*outs, strict=True))
    if isinstance(first, LengthwiseCache):
        return first
    if isinstance(first, Tensor) and first.ndim == 3:
        return torch.cat(list(outs), dim=1)
    raise ValueError("an output of this model does not say which tokens it belongs to; turn it off")
