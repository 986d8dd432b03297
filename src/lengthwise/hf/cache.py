"""The cache that an adapted model wants, as transformers sees it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from lengthwise.hf.engine import AttentionEngine, Memory
from lengthwise.hf.positions import Past

REMEMBERS = "a layer drops old keys or summarises pages"


class StateLayer(CacheLayerMixin):
    """Says how many tokens were seen; the attention function fills the state itself.

    transformers hands keys to a cache without queries or positions, so keeping and dropping
    happen one call later, in the attention function, which has both.
    """

    is_sliding = False

    def __init__(self, state: Memory) -> None:
        super().__init__()
        self.state = state
        self.seen = 0  # tokens of forwards that have ended
        self.expected = False  # whether an adapted model has announced new tokens
        self.is_initialized = True

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back (assisted decoding)."""
        return self.state.croppable

    @property
    def keys(self) -> Tensor | None:
        """The keys held, `[b, kv, n, d]`, to look at: see `Memory.tensors`."""
        held = self.state.tensors()
        return None if held is None else held[0]

    @keys.setter
    def keys(self, value: Tensor | None) -> None:
        _refuse_setting(value)

    @property
    def values(self) -> Tensor | None:
        """The values held, likewise."""
        held = self.state.tensors()
        return None if held is None else held[1]

    @values.setter
    def values(self, value: Tensor | None) -> None:
        _refuse_setting(value)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate before keys arrive."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Hand the new tokens on as they are; they are seen once their forward has ended."""
        if not self.expected:
            raise ValueError(
                "this cache serves only the adapted model that lengthwise.new_cache made it for; "
                "leave it out or adapt the model"
            )
        self.expected = False
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


def _refuse_setting(value: Tensor | None) -> None:
    """transformers sets None when a layer is made, and more where it changes keys itself."""
    if value is not None:
        raise ValueError(
            "the keys and values of an adapted model's cache can be looked at and not be set; take "
            "a new cache, lengthwise.new_cache(model), and let the model read"
        )


class Owner(Protocol):
    """The binding of a model."""

    @property
    def engine(self) -> AttentionEngine:
        """Makes memories."""


class LengthwiseCache(Cache):
    """Pass it as transformers' cache; `generate` and a plain forward make one by themselves.

    `fork` copies it: copies go on by themselves, on the same model.

    Args:
        states: One memory per layer.
        owner: The binding that it belongs to; another model refuses it.
    """

    def __init__(self, states: list[Memory], owner: Owner) -> None:
        super().__init__(layers=[StateLayer(state) for state in states])
        self.owner = owner
        self.past = Past()  # what forwards that have ended left
        self.packed = False  # whether their tokens came with segment_ids
        # Tokens of the text of which forwards read a part each; 0 where none is announced.
        self.whole = 0
        # The same, as a forward that has begun and not ended will leave it.
        self._coming: tuple[Past, bool] | None = None
        # What predicts the next token of every row, [b, d], where a method needs logits.
        self.predictor: Tensor | None = None
        self._torn = False  # whether only some of the layers were rearranged

    @property
    def lengths(self) -> Tensor | None:
        """The position after the last token of each row so far, `[b]`; None when empty."""
        return self.past.lengths

    def settle(self) -> None:
        """Take back what a forward that died midway has left.

        Raises:
            ValueError: If a layer has dropped or summarised keys for it.
        """
        if self._torn:
            raise ValueError(
                "this cache was interrupted while its rows changed, so its layers differ; start "
                "again with lengthwise.new_cache(model)"
            )
        if self._coming is None:
            return
        seen = self.get_seq_length()
        if not seen:
            self.predictor = None
            for index, layer in enumerate(self.layers):
                layer.state = self.owner.engine.new_state(index)
        elif self.is_croppable:
            for layer in self.layers:
                layer.state.crop(layer.state.held - seen)
        else:
            raise ValueError(
                "a forward on this cache died midway, and a layer has dropped old keys or "
                "summarised pages for it; start again with lengthwise.new_cache(model)"
            )
        self._coming = None

    def hidden_by(self, real: Tensor | None) -> Tensor | None:
        """Which of the tokens seen a mask hides by now, `[b, seen]`; None for none.

        A row that ended early in a batch was padded in the text of the others; its next turn says
        so. What later tokens have read cannot be hidden any more.

        Args:
            real: The mask of the tokens seen and of more `[b, seen + n]`; None for ones.

        Raises:
            ValueError: For any other mask than that of the tokens seen.
        """
        seen = self.past.seen
        if real is None or not seen:
            return None
        past = real[:, :seen]
        if self.past.places is None and bool(past.all()):
            return None
        known = self.past.all_places(len(real), real.device) >= 0
        if torch.equal(past, known):
            return None
        shown, hidden = past & ~known, known & ~past
        if bool(shown.any()):
            row, column = shown.nonzero()[0].tolist()
            raise ValueError(
                f"attention_mask shows token {column} of row {row}, which was padding when it was "
                "read; pass the mask of the tokens seen as it was"
            )
        later = past.flip(1).cumsum(1).flip(1) > 0
        if bool((hidden & later).any()):
            row, column = (hidden & later).nonzero()[0].tolist()
            raise ValueError(
                f"attention_mask hides token {column} of row {row}, which later ones in the cache "
                "have read; read the text again without it, on lengthwise.new_cache(model)"
            )
        if self.packed or not self.is_croppable:
            row, column = hidden.nonzero()[0].tolist()
            why = "it holds packed documents" if self.packed else REMEMBERS
            raise ValueError(
                f"attention_mask hides token {column} of row {row}, which this cache cannot take "
                f"back: {why}; read the text again without it, on lengthwise.new_cache(model)"
            )
        return hidden

    def hide(self, hidden: Tensor) -> None:
        """Make padding of what `hidden_by` has found, `[b, seen]`."""
        with self._tearing():
            for layer in self.layers:
                layer.state.hide(hidden)
            self.past = self.past.hide(hidden)

    def begin(self, past: Past, packed: bool) -> None:
        """A forward begins, and layers will be handed new tokens.

        Args:
            past: What the cache will hold.
            packed: Whether the tokens come with segment_ids.
        """
        self._coming = past, packed
        self.expect()

    def expect(self) -> None:
        """Layers will be handed new tokens."""
        for layer in self.layers:
            layer.expected = True

    def end(self) -> None:
        """The forward that began has ended, and its tokens are seen."""
        if self._coming is not None:
            self.past, self.packed = self._coming
            self._coming = None
            for layer in self.layers:
                layer.seen = self.past.seen

    @contextmanager
    def _tearing(self) -> Iterator[None]:
        """Around a change of all layers; one that is interrupted leaves the cache unusable."""
        self._torn = True
        yield
        self._torn = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        self.settle()
        if self.lengths is not None:
            with self._tearing():
                for layer in self.layers:
                    layer.state.select_rows(beam_idx)
                if self.predictor is not None:
                    self.predictor = self.predictor.index_select(0, beam_idx)
                self.past = self.past.select_rows(beam_idx)

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

    def activate_past_recording(self) -> None:
        """Assisted decoding begins, which takes back the drafts that were wrong.

        Raises:
            ValueError: If a layer cannot take tokens back.
        """
        if not self.is_croppable:
            raise ValueError(
                f"this cache cannot take back tokens: {REMEMBERS}; generate without assisted "
                "decoding or prompt lookup"
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens of every row (assisted decoding), padding too.

        Args:
            tokens_to_remove: Minus their number, as in transformers.

        Raises:
            ValueError: If it is positive or more than were seen, or a layer has dropped what would
                come back.
        """
        self.settle()
        seen = self.get_seq_length()
        if not -seen <= tokens_to_remove <= 0:
            raise ValueError(
                f"tokens_to_remove must be minus the number of tokens, at most the {seen} seen, "
                f"got {tokens_to_remove}"
            )
        if tokens_to_remove == 0:
            return
        self.activate_past_recording()
        with self._tearing():
            super().crop(tokens_to_remove)
            self.past = self.past.cut(seen + tokens_to_remove)

    def restart(self, seen: int, lengths: Tensor | None) -> None:
        """Whoever changed the states itself says what they hold: rows without padding.

        Args:
            seen: Tokens of every row.
            lengths: The same for each row, `[b]`.
        """
        for layer in self.layers:
            layer.seen, layer.expected = seen, False
        self.past, self._coming = Past(seen, lengths), None

    def reset(self) -> None:
        """Refused: a fresh cache is as cheap."""
        raise ValueError("this cache cannot be reset; take a new one: lengthwise.new_cache(model)")

    def fork(self) -> "LengthwiseCache":
        """A copy that goes on by itself, as `copy.deepcopy`: for many questions about one text.

        Layers that keep everything share with it what they hold, so that a fork costs no memory
        until it reads on, and then only that of what it reads. Stores of a fixed budget are copied.
        """
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LengthwiseCache":
        """A cache for the same model, or for its copy where that was copied along before."""
        self.settle()
        fork = type(self).__new__(type(self))
        memo[id(self)] = fork
        for name, value in vars(self).items():
            shared = memo.get(id(value), value) if name == "owner" else copy.deepcopy(value, memo)
            setattr(fork, name, shared)
        return fork

    def __copy__(self) -> NoReturn:
        raise ValueError(
            "a shallow copy of this cache would share its keys and be overwritten by the other; "
            "use cache.fork(), or copy.deepcopy(cache)"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise ValueError(
            "this cache belongs to a model in memory and cannot be pickled; write it with "
            "lengthwise.save_context, or fork it with copy.deepcopy(cache)"
        )

    def bytes(self) -> int:
        """Bytes allocated for keys, values, positions and summaries, over all layers; what it
        shares with forks too.
        """
        beside = 0 if self.predictor is None else self.predictor.nbytes
        return beside + sum(layer.state.bytes() for layer in self.layers)
