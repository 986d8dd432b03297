"""The binding: the one place that registers anything in transformers.

An adapted model keeps its own modules. Its rotary embedding is replaced by the identity, so
queries and keys arrive un-rotated; its attention function is ours; a hook before each forward
works out logical positions, because they are the one thing that no cache or mask function is
told, and hands them down as a keyword. Facts of transformers that this rests on are tests:
tests/hf/test_transformers_facts.py.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from lengthwise.hf.cache import LengthwiseCache
from lengthwise.hf.engine import AttentionEngine
from lengthwise.hf.families import FAMILIES, decoder
from lengthwise.hf.handing import (
    CALL,
    PAST_THE_HEAD,
    ByMask,
    Falcon,
    OwnSetting,
    let_falcons_be_built,
)
from lengthwise.hf.methods import OwnMethods
from lengthwise.hf.positions import Past, Step, make_step, read_mask
from lengthwise.hf.release import CACHE, refuse_unknown_release, take_cache
from lengthwise.hf.telling import Teller
from lengthwise.hf.unrotated import IdentityRotary, leave_unrotated

NAME = "lengthwise"
# Kinds of caches that only say how memory is laid out; results do not depend on them.
REPLACED = ("dynamic", "static", "sliding_window", "hybrid", "hybrid_chunked")
INSIDE = "lengthwise_inside"  # tells the decoder that the model around it has still to end
NOT_BY_NAME = (
    "attn_implementation 'lengthwise' is set by lengthwise.adapt, not by name; two models need two "
    "configurations, such as type(config).from_dict(config.to_dict())"
)
NO_GRAPH = (
    "an adapted model works out positions and sees to its cache between the parts of a graph, so "
    "it cannot be exported, traced or compiled with fullgraph=True; use torch.compile without "
    "fullgraph, or export the plain model that lengthwise.save writes"
)


@dataclass(frozen=True)
class Call:
    """What one forward hands to every layer; it travels as the keyword `lengthwise`."""

    engine: AttentionEngine
    step: Step
    cache: LengthwiseCache | None
    binding: "Binding"
    inside: bool = False  # whether the forward ends later than that of the decoder

    def of(self, step: Step, cache: LengthwiseCache) -> "Call":
        """The same for a piece of it."""
        return replace(self, step=step, cache=cache)


E = TypeVar("E", bound=AttentionEngine)


class Binding(Generic[E]):
    """What ties one model to one engine, and how to untie it.

    Raises:
        ValueError: If the installed transformers is not known.
    """

    def __init__(self, model: PreTrainedModel, engine: E) -> None:
        refuse_unknown_release()
        self.engine = engine
        self._base, self._config = decoder(model), model.config
        self._signature = inspect.signature(self._base.forward)
        self._attention_before = model.config._attn_implementation
        self._choose(model, NAME)
        self._base.rotary_emb = IdentityRotary(self._base.rotary_emb)  # type: ignore[arg-type]
        self._hooks = [
            self._base.register_forward_pre_hook(self._before, with_kwargs=True),
            self._base.register_forward_hook(self._after, with_kwargs=True),
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._leave, with_kwargs=True),
        ]
        self._falcon = model.config.model_type == "falcon"
        own = Falcon(attention) if self._falcon else None
        self._changed: list[OwnMethods | OwnSetting] = [*leave_unrotated(self._base, own)]
        for layer in self._base.modules():  # whose factors count columns: ours are the engine's
            if getattr(layer, "attn_temperature_tuning", False):
                self._changed.append(OwnSetting(layer, "attn_temperature_tuning", False))
        if FAMILIES[model.config.model_type].by_mask:
            self._changed.append(ByMask(self._base, NAME).methods)
        self._teller = Teller(model, self._base, NAME) if engine.told else None
        self.methods = OwnMethods(model)
        self.methods.put("generate", generate)
        object.__setattr__(model, "_lengthwise", self)

    @property
    def decoder(self) -> nn.Module:
        """The stack of layers that is bound."""
        return self._base

    def undo(self, model: PreTrainedModel) -> None:
        """Give the model back as it was."""
        for hook in self._hooks:
            hook.remove()
        self._base.rotary_emb = self._base.rotary_emb.original  # type: ignore[union-attr]
        if model.config._attn_implementation == NAME:
            self._choose(model, self._attention_before)
        if self._teller is not None:
            self._teller.methods.undo()
        for changed in (*self._changed, self.methods):
            changed.undo()
        del model._lengthwise

    @staticmethod
    def _choose(model: PreTrainedModel, name: str) -> None:
        if model.config.model_type == "falcon":  # which has no choice, by transformers' account
            model.config._attn_implementation = name
            let_falcons_be_built(NAME)
        else:
            model.set_attn_implementation(name)

    def new_cache(self) -> LengthwiseCache:
        """An empty cache for this model."""
        layers = range(len(self.engine.geometry.layers))
        return LengthwiseCache([self.engine.new_state(layer) for layer in layers], owner=self)

    @torch.compiler.disable(reason=NO_GRAPH)
    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before a forward: work out positions, and see to the cache."""
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            raise ValueError(NO_GRAPH)
        if self._config._attn_implementation != NAME:
            raise ValueError(
                f"attention implementation {self._config._attn_implementation!r} was set on an "
                "adapted model, whose attention is lengthwise's; call lengthwise.restore(model) "
                f"first, or model.set_attn_implementation({NAME!r}) to go on"
            )
        given = dict(kwargs)
        if args:
            bound = self._signature.bind_partial(*args, **kwargs).arguments
            given = {**bound, **bound.pop("kwargs", {})}
        if self._falcon:
            given |= PAST_THE_HEAD.get({})
            PAST_THE_HEAD.set({})
        inside = given.pop(INSIDE, False)
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        if (ids is None) == (embeds is None):
            return None  # transformers has its own words for it
        weights = given.get("output_attentions")
        if self._config.output_attentions if weights is None else weights:
            raise ValueError(
                "an adapted model merges attention from parts and has no attention weights to "
                "return; leave output_attentions out"
            )
        segments = given.pop("segment_ids", None)
        cache = self._own_cache(take_cache(given), given.get("use_cache"))
        given["use_cache"], given[CACHE] = cache is not None, cache
        new = embeds if ids is None else ids
        assert isinstance(new, Tensor)
        rows, count = new.shape[:2]
        past, hidden = Past(), None
        if cache is not None:
            self._check_past(cache, rows, packed=segments is not None)
            past = cache.past
        mask, plain = given.get("attention_mask"), past.plain
        real = read_mask(mask, rows, past.seen, count, new.device, plain=plain)
        if cache is not None and real is not None:
            hidden = cache.hidden_by(real)
        step, left = make_step(
            rows=rows,
            count=count,
            past=past if hidden is None else past.hide(hidden),
            real=real,
            position_ids=given.get("position_ids"),
            segments=segments,
            device=new.device,
        )
        if not step.rises and not all(self.engine.ordered):
            raise ValueError(
                "position_ids start again behind padding, which only plain causal attention with "
                "frequencies that stay can follow; pad rows on the left"
            )
        if cache is not None:
            step = replace(step, whole=cache.whole) if cache.whole else step
            if hidden is not None:
                cache.hide(hidden)
            cache.begin(left, packed=segments is not None)
        given[NAME] = Call(self.engine, step, cache, self, inside)
        return (), given

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """After the decoder: a cache has seen its tokens, unless a head has still to be run."""
        call: Call | None = kwargs.get(NAME)
        if call is not None and call.cache is not None and not call.inside:
            call.cache.end()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before the model around the decoder."""
        inside = {} if _cache_in(args, kwargs) is None else {INSIDE: True}
        if not self._falcon:
            return (args, {**kwargs, **inside}) if inside else None
        PAST_THE_HEAD.set({**inside, **{x: kwargs[x] for x in ("segment_ids",) if x in kwargs}})
        return None

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """After the model around the decoder, where nothing died: now its tokens are seen."""
        cache = _cache_in(args, kwargs)
        if cache is not None:
            cache.end()

    @staticmethod
    def _check_past(cache: LengthwiseCache, rows: int, packed: bool) -> None:
        cache.settle()
        if cache.lengths is not None and len(cache.lengths) != rows:
            raise ValueError(
                f"the cache holds {len(cache.lengths)} rows and the tokens have {rows}; pass as "
                "many rows as before, or take another cache from lengthwise.new_cache(model)"
            )
        if cache.past.seen and cache.packed != packed:
            raise ValueError(
                "segment_ids must go with every forward on a cache or with none: the tokens seen "
                f"came {'with' if cache.packed else 'without'} them"
            )

    def _own_cache(self, cache: Any, wanted: bool | None) -> LengthwiseCache | None:
        if self._base.training and self._base.is_activation_checkpointing:
            if cache is not None:
                raise ValueError(
                    "gradient checkpointing runs layers twice and cannot go on from a cache; leave "
                    f"{CACHE} out"
                )
            return None
        if cache is None:
            if wanted is None:  # by default, training keeps nothing beyond the forward
                wanted = self._config.use_cache and not self._base.training
            return self.new_cache() if wanted else None
        if not isinstance(cache, LengthwiseCache):
            raise ValueError(
                f"an adapted model takes its own cache and not a {type(cache).__name__}; start "
                "with lengthwise.new_cache(model)"
            )
        if cache.owner is not self:
            raise ValueError(
                "this cache belongs to another model or adaptation; take one from "
                "lengthwise.new_cache(model)"
            )
        return cache


def own_config(model: PreTrainedModel) -> None:
    """Give a model a configuration that nobody shares, for the choice of attention stands in it.

    Whoever holds the one that it was built from may build and adapt other models from that.
    """
    shared = model.config
    own = copy.deepcopy(shared)
    for module in model.modules():
        if vars(module).get("config") is shared:
            module.config = own
    if own._attn_implementation == NAME:  # that of an adapted model: as transformers chooses itself
        kind = model._check_and_adjust_attn_implementation(None, is_init_check=True)
        own._attn_implementation = kind


def _cache_in(args: Any, kwargs: Any) -> LengthwiseCache | None:
    named = (x for x in (*args, *kwargs.values()) if isinstance(x, LengthwiseCache))
    return next(named, None)


def generate(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """transformers' `generate` with the cache of the adapted model, unless one is passed."""
    binding: Binding[AttentionEngine] = self.__dict__["_lengthwise"]
    config = args[1] if len(args) > 1 else kwargs.get("generation_config")

    def setting(name: str) -> Any:
        """As `generate` finds it: a keyword, the configuration passed, the model's own."""
        found = [kwargs.get(name), getattr(config, name, None)]
        found.append(getattr(self.generation_config, name, None))
        return next((value for value in found if value is not None), None)

    cache = take_cache(kwargs)
    if cache is None and setting("use_cache") is not False:
        cache = binding.new_cache()
    if cache is not None:  # beams take even a None for a cache that they must reorder
        kwargs[CACHE] = cache
    _check_prompt(binding.engine, kwargs, cached=cache is not None)
    kind = setting("cache_implementation")
    if isinstance(cache, LengthwiseCache):
        if kind in REPLACED:  # what they arrange, the store arranges
            kwargs["cache_implementation"] = None
        elif kind is not None:
            raise ValueError(
                f"an adapted model keeps its keys in its own cache, so cache_implementation must "
                f"be None or one of {', '.join(REPLACED)}, got {kind!r}"
            )
        if setting("is_assistant"):
            cache.activate_past_recording()
    return binding.methods.before("generate")(*args, **kwargs)


def _check_prompt(engine: AttentionEngine, given: dict[str, Any], cached: bool) -> None:
    """Raise for prompts that `generate` reads otherwise than we would."""
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    padded = False
    if isinstance(mask, Tensor) and mask.ndim == 2:
        padded, ends = not bool(mask.all()), mask[:, -1] == 0
        if bool(ends.any()) and not all(engine.ordered):
            raise ValueError(
                f"row {int(ends.nonzero()[0])} of attention_mask ends with padding, and what "
                "follows it can only be generated by plain causal attention with frequencies that "
                "stay; pad rows on the left"
            )
    jumps = isinstance(positions, Tensor) and bool((positions.diff(dim=-1) != 1).any())
    if jumps and not (cached or padded):
        raise ValueError(
            "transformers takes jumps of position_ids for documents where generate keeps no cache "
            "and for gaps where it does; leave use_cache on"
        )


@torch.compiler.disable(reason=NO_GRAPH)
def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: "Tensor | Call | None",
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    lengthwise: Call | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function for an adapted layer; `[b, t, heads, d]` comes back."""
    if isinstance(attention_mask, Call):
        lengthwise = attention_mask
    if lengthwise is None:
        raise ValueError(NOT_BY_NAME)
    if dropout:
        raise ValueError(f"an adapted model has no attention dropout, got {dropout}; set it to 0")
    cache = lengthwise.cache
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale: float = module.scaling if scaling is None else scaling  # type: ignore[assignment]
    # Out of inference mode: what is remembered beyond a forward must serve outside of it too.
    inside = torch.is_inference_mode_enabled()
    with _plain_mode() if inside else nullcontext():
        out = lengthwise.engine.attend(
            layer,
            query,
            key,
            value,
            lengthwise.step,
            None if cache is None else cache.layers[layer].state,
            scale=scale,
            softcap=softcap,
            learned_sink=s_aux,
        )
    return out.transpose(1, 2), None


@contextmanager
def _plain_mode() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield


def _no_mask(*args: Any, **kwargs: Any) -> Any:
    """Masks are computed from logical positions, so transformers needs to build none.

    In a decoder that hands nothing else down it is the call. Without one a Falcon would read on by
    itself, and see every key.
    """
    call, config = CALL.get(), kwargs.get("config")
    if call is None and config is not None and config.model_type == "falcon":
        raise ValueError(NOT_BY_NAME)
    return call


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, _no_mask)
