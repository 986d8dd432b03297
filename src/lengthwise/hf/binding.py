"""The binding: the one place that registers anything in transformers.

An adapted model keeps its own modules. Its rotary embedding is replaced by the identity, so
queries and keys arrive un-rotated; its attention function is ours; a hook before each forward
works out logical positions, because they are the one thing that no cache or mask function is
told. Facts of transformers that this rests on are tests: tests/hf/test_transformers_facts.py.
"""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface

from lengthwise.hf.cache import LengthwiseCache
from lengthwise.hf.families import attention_modules, decoder
from lengthwise.hf.positions import Step, make_step

NAME = "lengthwise"


class IdentityRotary(nn.Module):
    """Stands in for a rotary embedding: cos = 1 and sin = 0, in the shape the model expects."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original

    def forward(
        self, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        origin = position_ids.new_zeros(1, 1)
        cos, sin = self.original(x[:1, :1], origin, *args, **kwargs)
        return torch.ones_like(cos), torch.zeros_like(sin)


class Binding:
    """What ties one model to one engine, and how to untie it.

    Args:
        engine: Has `new_state(layer)` and `attend(layer, q, k, v, step, state, scale=…,
            softcap=…, learned_sink=…)`; see `lengthwise.extend.engine.Engine`.
    """

    def __init__(self, model: PreTrainedModel, engine: Any) -> None:
        self.engine = engine
        self.step: Step | None = None
        self.cache: LengthwiseCache | None = None
        self._base = decoder(model)
        self._signature = inspect.signature(self._base.forward)
        self._attention_before = model.config._attn_implementation
        self._generate_before = model.__dict__.get("generate")
        self._base.rotary_emb = IdentityRotary(self._base.rotary_emb)  # type: ignore[arg-type]
        for index, module in enumerate(attention_modules(model)):
            object.__setattr__(module, "_lengthwise", (self, index))
        self._hook = self._base.register_forward_pre_hook(self._before, with_kwargs=True)
        model.set_attn_implementation(NAME)
        generate = model.generate

        @functools.wraps(generate)
        def generate_with_cache(*args: Any, **kwargs: Any) -> Any:
            config = kwargs.get("generation_config") or model.generation_config
            use_cache = kwargs.get("use_cache", config.use_cache)
            if kwargs.get("past_key_values") is None and use_cache is not False:
                kwargs["past_key_values"] = self.new_cache()
            return generate(*args, **kwargs)

        model.generate = generate_with_cache  # type: ignore[method-assign]
        object.__setattr__(model, "_lengthwise", self)

    def undo(self, model: PreTrainedModel) -> None:
        """Give the model back as it was."""
        self._hook.remove()
        self._base.rotary_emb = self._base.rotary_emb.original  # type: ignore[union-attr, assignment]
        for module in attention_modules(model):
            del module._lengthwise
        model.set_attn_implementation(self._attention_before)
        del model.generate
        if self._generate_before is not None:
            model.generate = self._generate_before  # type: ignore[method-assign]
        del model._lengthwise

    def new_cache(self) -> LengthwiseCache:
        """An empty cache for this model."""
        layers = range(len(self.engine.geometry.layers))
        return LengthwiseCache([self.engine.new_state(layer) for layer in layers], owner=self)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before a forward: work out positions, and see to the cache."""
        bound = self._signature.bind_partial(*args, **kwargs)
        given = bound.arguments
        extra = dict(given.pop("kwargs", {}))
        segments = extra.pop("segment_ids", None)
        cache = self._own_cache(given)
        if cache is not None:
            given["past_key_values"] = cache
        elif not torch.is_grad_enabled() or given.get("use_cache") is False:
            given.pop("past_key_values", None)
        new = given.get("input_ids")
        new = given["inputs_embeds"] if new is None else new
        self.step = make_step(
            rows=new.shape[0],
            count=new.shape[1],
            seen=0 if cache is None else cache.get_seq_length(),
            lengths=None if cache is None else cache.lengths,
            mask=given.get("attention_mask"),
            position_ids=given.get("position_ids"),
            segments=segments,
            device=new.device,
        )
        self.cache = cache
        if cache is not None:
            cache.lengths = self.step.lengths
        return (), {**given, **extra}

    def _own_cache(self, given: dict[str, Any]) -> LengthwiseCache | None:
        cache = given.get("past_key_values")
        if cache is None:
            wanted = given.get("use_cache")
            wanted = self._base.config.use_cache if wanted is None else wanted
            if not wanted or torch.is_grad_enabled():
                # Training keeps no memory beyond the forward; transformers must not make one.
                given["use_cache"] = False
                return None
            return self.new_cache()
        if isinstance(cache, LengthwiseCache):
            if cache.owner is not self:
                raise ValueError(
                    "this cache belongs to another model or adaptation; take one from "
                    "lengthwise.new_cache(model)"
                )
            return cache
        if isinstance(cache, Cache) and cache.get_seq_length() == 0:
            return self.new_cache()
        raise ValueError(
            f"an adapted model cannot continue from a filled {type(cache).__name__}; "
            "start with lengthwise.new_cache(model)"
        )


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function for an adapted layer; `[b, t, heads, d]` comes back."""
    bound = getattr(module, "_lengthwise", None)
    if bound is None:
        raise ValueError("attn_implementation 'lengthwise' is set by lengthwise.adapt, not by name")
    if dropout:
        raise ValueError(f"an adapted model has no attention dropout, got {dropout}; set it to 0")
    binding, layer = bound
    cache = binding.cache
    out = binding.engine.attend(
        layer,
        query,
        key,
        value,
        binding.step,
        None if cache is None else cache.layers[layer].state,
        scale=module.scaling if scaling is None else scaling,
        softcap=softcap,
        learned_sink=s_aux,
    )
    return out.transpose(1, 2), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Masks are computed from logical positions, so transformers needs to build none."""


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _no_mask)
