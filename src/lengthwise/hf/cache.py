"""The cache that an adapted model wants, as transformers sees it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

REMEMBERS = "a layer drops old keys or summarises pages"


class StateLayer(CacheLayerMixin):
    """Says how many tokens were seen; the attention function fills the state itself.

    transformers hands keys to a cache without queries or positions, so keeping and dropping
    happen one call later, in the attention function, which has both.
    """

    is_sliding = False

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state
        self.seen = 0  # tokens of forwards that have ended
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


@dataclass(frozen=True)
class Coming:
    """What a cache will have seen once a forward has ended.

    Attributes:
        count: New tokens of every row.
        lengths, packed, real: As of `LengthwiseCache`, the new tokens included.
    """

    count: int
    lengths: Tensor
    packed: bool
    real: Tensor | None


class LengthwiseCache(Cache):
    """Pass it as transformers' cache; `generate` and a plain forward make one by themselves.

    `copy.deepcopy` forks it: copies go on by themselves, on the same model.

    Args:
        states: One memory per layer, with `select_rows`, `crop`, `croppable`, `places`, `hide` and
            `bytes`.
        owner: The binding that it belongs to; another model refuses it.
    """

    def __init__(self, states: list[Any], owner: Any) -> None:
        super().__init__(layers=[StateLayer(state) for state in states])
        self.owner = owner
        self.lengths: Tensor | None = None  # real tokens of each row so far, [b]
        self.packed = False  # whether the tokens seen came with segment_ids
        self.real: Tensor | None = None  # which of them are no padding, [b, seen]; None: all
        # Tokens of the text of which forwards read a part each; 0 where none is announced.
        self.whole = 0
        self._coming: Coming | None = None  # of a forward that has begun and not ended
        self._torn = False  # whether only some of the layers were rearranged

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
            for index, layer in enumerate(self.layers):
                layer.state = self.owner.engine.new_state(index)
        elif self.is_croppable:
            for layer in self.layers:
                layer.state.crop(layer.state.places.shape[1] - seen)
        else:
            raise ValueError(
                "a forward on this cache died midway, and a layer has dropped old keys or "
                "summarised pages for it; start again with lengthwise.new_cache(model)"
            )
        self._coming = None

    def lengths_under(self, real: Tensor | None) -> Tensor | None:
        """Lengths of the rows `[b]` where a mask may hide the newest of their tokens.

        A row that ended early in a batch was padded in the text of the others; its next turn says
        so. What later tokens have read cannot be hidden any more.

        Args:
            real: The mask of the tokens seen and of more `[b, seen + n]`; None for ones.

        Raises:
            ValueError: For any other mask than that of the tokens seen.
        """
        seen = self.get_seq_length()
        if real is None or not seen:
            return self.lengths
        past = real[:, :seen]
        known = torch.ones_like(past) if self.real is None else self.real
        if torch.equal(past, known):
            return self.lengths
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
        places = self.layers[0].state.places.masked_fill(~past, -1)
        return places.amax(1) + 1

    def begin(self, count: int, lengths: Tensor, packed: bool, real: Tensor | None) -> None:
        """A forward begins, and layers will be handed new tokens.

        Args:
            count: New tokens of every row.
            lengths: Real tokens of each row, the new ones included, `[b]`.
            packed: Whether they come with segment_ids.
            real: The mask that `lengths_under` has accepted.
        """
        seen = self.get_seq_length()
        if real is None and self.real is not None:
            real = torch.cat([self.real, self.real.new_ones(len(self.real), count)], dim=1)
        elif real is not None and self.real is None and bool(real.all()):
            real = None
        if real is not None and seen:
            self._hide(~real[:, :seen])
        self._coming = Coming(count, lengths, packed, real)
        for layer in self.layers:
            layer.expected = True

    def _hide(self, hidden: Tensor) -> None:
        known = hidden if self.real is None else hidden & self.real
        if bool(known.any()):
            with self._tearing():
                for layer in self.layers:
                    layer.state.hide(known)
                self.real = ~hidden
                self.lengths = self.layers[0].state.places.amax(1) + 1

    def end(self) -> None:
        """The forward that began has ended, and its tokens are seen."""
        coming = self._coming
        if coming is None:
            return
        for layer in self.layers:
            layer.seen += coming.count
        self.lengths, self.packed, self.real = coming.lengths, coming.packed, coming.real
        self._coming = None

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
                self.lengths = self.lengths.index_select(0, beam_idx)
                if self.real is not None:
                    self.real = self.real.index_select(0, beam_idx)

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
            left = seen + tokens_to_remove
            if self.lengths is not None:
                held = self.layers[0].state.places
                self.lengths = held.amax(1) + 1 if left else torch.zeros_like(self.lengths)
            self.real = None if self.real is None else self.real[:, :left]

    def restart(self, seen: int, lengths: Tensor | None) -> None:
        """Whoever changed the states itself says what they hold: rows without padding.

        Args:
            seen: Tokens of every row.
            lengths: The same for each row, `[b]`.
        """
        for layer in self.layers:
            layer.seen, layer.expected = seen, False
        self.lengths, self.real, self._coming = lengths, None, None

    def reset(self) -> None:
        """Refused: a fresh cache is as cheap."""
        raise ValueError("this cache cannot be reset; take a new one: lengthwise.new_cache(model)")

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
            "use copy.deepcopy(cache)"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise ValueError(
            "this cache belongs to a model in memory and cannot be pickled or saved; keep the "
            "tokens and read them again, or fork it with copy.deepcopy(cache)"
        )

    def bytes(self) -> int:
        """Bytes allocated for keys, values, positions and summaries, over all layers."""
        return sum(layer.state.bytes() for layer in self.layers)
