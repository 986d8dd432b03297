"""A text that is read in parts, as one forward would read it.

Frequencies that follow the length (dynamic NTK, longrope) make parts differ from the whole: the
first part is read with those of a short text. And transformers' cache keeps keys as they were
rotated, so that there they go stale with the next forward.
"""

from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedModel

from lengthwise.extend.adapt import adapted, binding_of, is_adapted, new_cache
from lengthwise.extend.scaling.own import OwnScaling
from lengthwise.hf.cache import LengthwiseCache
from lengthwise.hf.families import frequencies_follow_length


def goes_stale(model: PreTrainedModel) -> bool:
    """Whether a longer text makes keys in the model's cache wrong, as it is now."""
    return frequencies_follow_length(model) and not is_adapted(model)


def steady(model: PreTrainedModel) -> AbstractContextManager[PreTrainedModel]:
    """The model as it is for a `with` block, adapted without a method if its cache would go stale.

    So is transformers' MPT, which builds its biases for `max_seq_len` tokens and stops there:
    adapted it computes the same and reads on, as ALiBi is meant to.

    Raises:
        ValueError: A model whose cache would go stale, of a family that cannot be adapted.
    """
    config = getattr(model, "config", None)  # a module of a person's own may have none
    stops = getattr(config, "model_type", "") == "mpt" and not is_adapted(model)
    return adapted(model) if stops or goes_stale(model) else nullcontext(model)


def cache_for(model: PreTrainedModel, tokens: int) -> LengthwiseCache | None:
    """A cache for a text of `tokens` tokens whose parts must give what the whole gives.

    None where the cache that the model makes does that anyway: frequencies do not follow the
    length, or follow it by the definition of a method that was named.
    """
    if not is_adapted(model) or not frequencies_follow_length(model):
        return None
    if binding_of(model).engine.axes.scaling != OwnScaling():
        return None
    cache = new_cache(model)
    cache.whole = tokens
    return cache
