"""What an adapted model needs of layers that hand no keywords down, or turn to no interface."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from lengthwise.hf.methods import OwnMethods

# What the mask function of the binding gives to whom it is asked for a mask, in this thread.
CALL: ContextVar[Any] = ContextVar("what the decoder that runs was called with", default=None)
# Keywords on their way past the head of a Falcon, which keeps them to itself.
PAST_THE_HEAD: ContextVar[dict[str, Any]] = ContextVar("keywords of the decoder")


class ByMask:
    """A decoder whose layers are given its keyword as their attention mask, the one thing that all
    of them hand down (StableLM, Falcon). Layers that run again in a backward have it with them.

    Args:
        name: The keyword in which the binding hands down its call.
    """

    def __init__(self, base: nn.Module, name: str) -> None:
        self.name = name
        self.methods = OwnMethods(base)
        self.methods.put("forward", self.forward)

    def forward(self, base: nn.Module, *args: Any, **given: Any) -> Any:
        """The decoder's own, while its keyword can be found."""
        before = CALL.set(given.get(self.name))
        try:
            return self.methods.before("forward")(*args, **given)
        finally:
            CALL.reset(before)


class Falcon:
    """Falcon's attention, which calls kernels of its own: projections, and then ours between them.

    Where several query heads read one KV head, transformers repeats it before it is cached; here it
    stays one.

    Args:
        attention: What is called as transformers' attention functions are.
    """

    def __init__(self, attention: Callable[..., tuple[Tensor, None]]) -> None:
        self.attention = attention

    def __call__(
        self,
        module: Any,
        hidden_states: Tensor,
        alibi: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        layer_past: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        rows, count, _ = hidden_states.shape
        fused = module.query_key_value(hidden_states)
        kv_heads: int = module.num_kv_heads
        fused = fused.view(rows, count, kv_heads, -1, module.head_dim)  # queries, a key, a value
        q = fused[..., :-2, :].flatten(2, 3).transpose(1, 2)
        k, v = (fused[..., at, :].transpose(1, 2) for at in (-2, -1))
        if layer_past is not None:
            k, v = layer_past.update(k, v, module.layer_idx)
        out, _ = self.attention(module, q, k, v, attention_mask, scaling=module.inv_norm_factor)
        return module.dense(out.reshape(rows, count, -1)), None


def let_falcons_be_built(name: str) -> None:
    """Let a Falcon be built from the configuration of an adapted one, as models of other families.

    Its layers look the class of their attention up by the name of the implementation.
    """
    from transformers.models.falcon import modeling_falcon

    modeling_falcon.FALCON_ATTENTION_CLASSES[name] = modeling_falcon.FalconAttention


class OwnSetting:
    """A setting of one module that is another while its model is adapted."""

    def __init__(self, module: nn.Module, name: str, value: Any) -> None:
        self._module, self._name, self._before = module, name, getattr(module, name)
        setattr(module, name, value)

    def undo(self) -> None:
        """Put back what stood there."""
        setattr(self._module, self._name, self._before)
