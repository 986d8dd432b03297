"""A model with methods, as lm-evaluation-harness drives it."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from lengthwise.catalogue import parse_many
from lengthwise.extend.adapt import adapt, binding_of, is_adapted
from lengthwise.extend.checkpoint import load
from lengthwise.extend.whole import goes_stale
from lengthwise.hf.binding import Binding
from lengthwise.hf.prompts import closing
from lengthwise.measure.engines.reading import trained_window

NAME = "lengthwise"


@register_model(NAME)
class LengthwiseLM(HFLM):
    """The harness's own Hugging Face model, adapted; nothing is cut off.

    Where the harness drops the start of a text that is too long, and says so in a warning, this
    one stops: a needle that was cut away would count as not found.

    Args:
        pretrained: A checkpoint's directory, a name on the hub, or `demo`.
        method: As on our command line: `yarn:factor=8+streamingllm`. One with several options,
            which commas separate, has to be given in JSON: `--model_args '{"method": …}'`.
        max_length: Tokens of prompt and answer together, at least 2; None is the window that the
            scaling claims. Layouts and stores claim nothing: with them, say how far to read.
        device: None takes a GPU if there is one; a GPU that is not there is the CPU, for the
            harness's command asks for one unless told otherwise.
        dtype: `auto` takes the checkpoint's own.
        options: Of the harness's own model.

    Raises:
        ValueError: An unknown method or option, no such model, or a method that does not fit it;
            later, a text longer than `max_length`.
    """

    def __init__(
        self,
        pretrained: str,
        method: str = "plain",
        max_length: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        **options: Any,
    ) -> None:
        known = inspect.signature(HFLM.__init__).parameters
        for name in options:
            if name not in known:
                raise ValueError(
                    f"the model type {NAME} has no argument {name!r}; a method of several options "
                    'goes into JSON: --model_args \'{"method": "infllm:pages=8,window=64"}\''
                )
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length must be at least 2 tokens, got {max_length!r}")
        model, tokenizer = load(pretrained, dtype=dtype)
        methods = parse_many(method)
        # The harness reads prompts at once and goes on from their cache, which must not go stale.
        if methods or goes_stale(model):
            adapt(model, *methods)
        gpu = torch.cuda.is_available()
        place = device or ("cuda" if gpu else "cpu")
        if place.startswith("cuda") and not gpu:
            place = "cpu"
        super().__init__(
            pretrained=model.to(place).eval(),
            tokenizer=tokenizer,
            max_length=max_length or _claimed(model),
            **options,
        )

    def tok_encode(self, string: str, *args: Any, **options: Any) -> list[int]:
        """Tokens of a text, without those that some tokenizers put behind it."""
        return self._without_closing(string, super().tok_encode(string, *args, **options))

    def _without_closing(self, string: str, ids: list[int]) -> list[int]:
        behind = closing(self.tokenizer)
        if not behind:
            return ids
        # The harness adds special tokens to some texts and not to others.
        bare = self.tokenizer.encode(string, add_special_tokens=False)
        return ids[: -len(behind)] if ids[-len(bare + behind) :] == bare + behind else ids

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask `[b, t]` of prompts; one that would have to be cut is refused."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if padding_side == "left":
            shown = len(self._without_closing(strings[0], ids[0].tolist()))
            ids, mask = ids[:, :shown], mask[:, :shown]
        if left_truncate_len is not None and ids.shape[1] > left_truncate_len:
            room = self.max_length - left_truncate_len
            self._refuse(ids.shape[1] + room)
        return ids, mask

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **options: Any
    ) -> list[tuple[float, bool]]:
        for _, context, continuation in requests:
            if len(context) + len(continuation) > self.max_length + 1:
                self._refuse(len(context) + len(continuation) - 1)
        scored: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **options)
        return scored

    def _refuse(self, length: int) -> None:
        raise ValueError(
            f"a text of {length:,} tokens with its answer is longer than max_length="
            f"{self.max_length:,}; give a larger one among the --model_args, or shorter texts"
        )


def _claimed(model: PreTrainedModel) -> int:
    """Tokens that the model's own scaling, or the one that it is adapted with, claims to reach."""
    window = trained_window(model)
    binding = binding_of(model) if is_adapted(model) else None
    return binding.engine.axes.scaling.reach(window) if isinstance(binding, Binding) else window
