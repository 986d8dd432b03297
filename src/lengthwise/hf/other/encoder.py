"""Bidirectional encoders (BERT's kin, T5's encoder): scores times a factor, by scaling queries.

A softmax temperature t divides scores by t, and scores are linear in the queries, so the
projection of queries is multiplied by 1/t. That holds under any attention implementation of
transformers. T5 adds a bias to its scores, which is multiplied too.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lengthwise.hf.other.binding import E, HookBinding, times
from lengthwise.hf.other.kinds import T5


class EncoderBinding(HookBinding[E]):
    """Hooks on every self-attention layer of an encoder; a decoder beside it stays what it is."""

    def __init__(self, model: PreTrainedModel, engine: E) -> None:
        if model.config.model_type in T5:
            encoder: Any = model.get_encoder()
            layers = [block.layer[0].SelfAttention for block in encoder.block]
            queries = [layer.q for layer in layers]
        else:
            encoder = model.base_model
            layers = [m for m in encoder.modules() if type(m).__name__.endswith("SelfAttention")]
            queries = [m.q_lin if hasattr(m, "q_lin") else m.query for m in layers]
        assert len(queries) == model.config.num_hidden_layers, "a layer without queries"
        self.attentions = layers
        super().__init__(model, engine, encoder)
        for projection in queries:
            self._hooks.append(projection.register_forward_hook(self._sharpen))
        if model.config.model_type in T5:
            hook = layers[0].register_forward_pre_hook(self._sharpen_bias, with_kwargs=True)
            self._hooks.append(hook)

    def _sharpen(self, module: nn.Module, args: Any, projected: Tensor) -> Tensor:
        return times(projected, self._factor)

    def _sharpen_bias(self, first: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The first layer computes the bias and hands it to the others: give it a scaled one."""
        hidden = args[0] if args else kwargs["hidden_states"]
        length = hidden.shape[1]
        bias = first.compute_bias(length, length, device=hidden.device)
        return args, {**kwargs, "position_bias": times(bias, self._factor)}
