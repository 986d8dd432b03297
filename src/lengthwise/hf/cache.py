"""The cache that an adapted model wants, as transformers sees it."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class StateLayer(CacheLayerMixin):
    """Counts tokens for transformers; the attention function fills the state itself.

    transformers hands keys to a cache without queries or positions, so keeping and dropping
    happen one call later, in the attention function, which has both.
    """

    is_sliding = False

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state
        self.seen = 0
        self.expected = False  # whether an adapted model has announced new tokens
        self.is_initialized = True

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back (assisted decoding)."""
        return bool(self.state.croppable)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate before keys arrive."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Count the new tokens and hand them on as they are."""
        if not self.expected:
            raise ValueError(
                "this cache serves only the adapted model that lengthwise.new_cache made it for; "
                "leave it out or adapt the model"
            )
        self.expected = False
        self.seen += key_states.shape[-2]
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Tokens seen, kept or not."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As if everything were kept."""
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens; transformers passes their number as a negative one."""
        self.state.crop(-tokens_to_remove)
        self.seen += tokens_to_remove


class LengthwiseCache(Cache):
    """Pass it as transformers' cache; `generate` and a plain forward make one by themselves.

    Args:
        states: One memory per layer, with `select_rows`, `crop`, `croppable` and `bytes`.
        owner: The binding that it belongs to; another model refuses it.
    """

    def __init__(self, states: list[Any], owner: object) -> None:
        super().__init__(layers=[StateLayer(state) for state in states])
        self.owner = owner
        self.lengths: Tensor | None = None  # real tokens of each row so far, [b]
        self.packed = False  # whether the tokens seen came with segment_ids
        # Tokens of the text of which forwards read a part each; 0 where none is announced.
        self.whole = 0

    def expect(self, lengths: Tensor, packed: bool) -> None:
        """Announce a forward, after which rows have these lengths.

        Args:
            lengths: Real tokens of each row, the new ones included, `[b]`.
            packed: Whether they come with segment_ids.
        """
        self.lengths, self.packed = lengths, packed
        for layer in self.layers:
            layer.expected = True

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        if self.lengths is not None:
            for layer in self.layers:
                layer.state.select_rows(beam_idx)
            self.lengths = self.lengths.index_select(0, beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.lengths is not None:
            self.reorder_cache(self._rows().repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        if self.lengths is not None:
            self.reorder_cache(self._rows()[indices])

    def _rows(self) -> Tensor:
        assert self.lengths is not None
        return torch.arange(len(self.lengths), device=self.lengths.device)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens of every row (assisted decoding).

        Args:
            tokens_to_remove: Minus their number, as in transformers.

        Raises:
            ValueError: If it is positive, or a layer has dropped what would come back.
        """
        if tokens_to_remove > 0:
            raise ValueError(
                f"tokens_to_remove must be minus the number of tokens, got {tokens_to_remove}"
            )
        if tokens_to_remove == 0:
            return
        if not self.is_croppable:
            raise ValueError(
                "this cache cannot take back tokens: a layer drops old keys or summarises pages; "
                "generate without assisted decoding or prompt lookup"
            )
        super().crop(tokens_to_remove)
        if self.lengths is not None:
            self.lengths = (self.lengths + tokens_to_remove).clamp(min=0)

    def reset(self) -> None:
        """Refused: a fresh cache is as cheap."""
        raise ValueError("this cache cannot be reset; take a new one: lengthwise.new_cache(model)")

    def bytes(self) -> int:
        """Bytes allocated for keys, values, positions and summaries, over all layers."""
        return sum(layer.state.bytes() for layer in self.layers)
