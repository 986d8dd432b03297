"""What a search asks of a candidate: the loss of a model, adapted by it, on long texts."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.adapt import adapted, new_cache
from lengthwise.extend.method import Method, whole
from lengthwise.extend.whole import cache_for
from lengthwise.hf.prompts import encode_prompt
from lengthwise.hf.release import CACHE

CHUNK = 1024  # tokens of a forward pass: memory for logits does not grow with the text

NEEDLE = "\nThe passkey is {key}. Remember it: {key} is the passkey.\n"
QUESTION = "\nWhat is the passkey? The passkey is"


@dataclass(frozen=True)
class Windows:
    """Texts of one length, and which of their tokens count.

    Attributes:
        ids: Token ids.
        counted: Whether the loss of a token counts; the first token of a text has none.
    """

    ids: Int[Tensor, "n t"]
    counted: Bool[Tensor, "n t"]

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape[1] < 2 or self.ids.shape != self.counted.shape:
            raise ValueError(
                "a search needs texts of at least 2 tokens as ids [n, t] with a mask of that "
                f"shape, got {tuple(self.ids.shape)} and {tuple(self.counted.shape)}"
            )
        if not bool(self.counted[:, 1:].any()):
            raise ValueError("a search needs tokens whose loss counts; the mask has none")

    @classmethod
    def of(cls, texts: "Windows | Int[Tensor, 'n t']") -> "Windows":
        """Windows as they are; of plain token ids, every token counts."""
        if isinstance(texts, Windows):
            return texts
        return cls(texts, torch.ones_like(texts, dtype=torch.bool))

    @property
    def length(self) -> int:
        """Tokens of every text."""
        return self.ids.shape[1]

    @property
    def fingerprint(self) -> str:
        """The same texts give the same letters: a search goes on with what it began with."""
        digest = hashlib.sha256(str(tuple(self.ids.shape)).encode())
        digest.update(self.ids.cpu().to(torch.int64).numpy().tobytes())
        digest.update(self.counted.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def loss(self, model: PreTrainedModel, *methods: Method) -> float:
        """Mean loss of the counted tokens in nats; infinite where the model gives no number.

        The model must not be adapted; it is adapted by `methods` meanwhile.
        """
        if model.training:
            raise ValueError("the model is in training mode; call model.eval() before a search")
        total, count = 0.0, 0
        with adapted(model, *methods):
            for ids, counted in zip(self.ids.split(1), self.counted.split(1), strict=True):
                cache = cache_for(model, self.length - 1) or new_cache(model)
                targets, weights = ids[:, 1:], counted[:, 1:]
                for start in range(0, self.length - 1, CHUNK):
                    part = ids[:, start : min(start + CHUNK, self.length - 1)].to(model.device)
                    out = model(part, use_cache=True, **{CACHE: cache})
                    here = weights[0, start : start + CHUNK].to(model.device)
                    if bool(here.any()):
                        wanted = targets[0, start : start + CHUNK].to(model.device)[here]
                        losses = torch.nn.functional.cross_entropy(
                            out.logits[0][here].float(), wanted, reduction="sum"
                        )
                        total, count = total + float(losses), count + int(here.sum())
        mean = total / count
        return mean if mean == mean else float("inf")


def text_windows(ids: Int[Tensor, " t"], length: int, count: int, head: int | None) -> Windows:
    """`count` texts of `length` tokens, evenly spread over one long text.

    Args:
        ids: The tokens of the text, without the token that begins a text.
        head: That token, put before every window, or None.

    Raises:
        ValueError: If the text is shorter than one window.
    """
    whole("text_windows", "length", length, 2)
    whole("text_windows", "count", count, 1)
    size = length - (head is not None)
    spare = len(ids) - size
    if spare < 0:
        raise ValueError(
            f"the text has {len(ids):,} tokens, and a search at {length:,} needs {size:,}; give a "
            "longer text or a smaller factor"
        )
    starts = [round(i * spare / max(1, count - 1)) for i in range(count)]
    rows = torch.stack([ids[start : start + size] for start in starts])
    if head is not None:
        rows = torch.cat([torch.full((count, 1), head, dtype=rows.dtype), rows], dim=1)
    return Windows(rows, torch.ones_like(rows, dtype=torch.bool))


def needle_windows(
    tokenizer: PreTrainedTokenizerBase,
    filler: str,
    length: int,
    count: int,
    *,
    digits: int = 5,
    seed: int = 0,
    depths: Sequence[float] = (),
    needle: str = NEEDLE,
    question: str = QUESTION,
) -> Windows:
    """`count` texts of `length` tokens that hide a number and say it again at their end.

    Only the tokens of the answer count: LongRoPE2's needle-driven loss.

    Source: Shang et al. 2025, arXiv:2502.20082, section 3 (needle-driven perplexity).
    Differs from the source: one needle a text, a passkey.

    Args:
        filler: Text that hides the needle, at least as long as `length` tokens.
        digits: Of the number, at least 1.
        depths: Where needles stand, from 0 to 1, one after another; by default evenly.

    Raises:
        ValueError: If the filler is too short, or the length holds no needle.
    """
    for name, value in (("length", length), ("count", count), ("digits", digits)):
        whole("needle_windows", name, value, 1)
    rng = random.Random(f"needles {seed}")
    begins = encode_prompt(tokenizer, "")
    hay = tokenizer(filler, add_special_tokens=False)["input_ids"]
    depths = depths or [i / max(1, count - 1) for i in range(count)]
    rows, counted = [], []
    for index in range(count):
        key = "".join(rng.choices("0123456789", k=digits))
        told, asked, answer = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (needle.format(key=key), question, f" {key}")
        )
        room = length - sum(map(len, (begins, told, asked, answer)))
        if room < 0:
            raise ValueError(
                f"needle_windows: length must be at least {length - room}, as needle, question "
                f"and answer take, got {length}"
            )
        if len(hay) < room:
            raise ValueError(
                f"the filler has {len(hay):,} tokens, and texts of {length:,} need {room:,}; give "
                "a longer text"
            )
        start = rng.randrange(len(hay) - room + 1)
        cut = round(depths[index % len(depths)] * room)
        hidden = hay[start : start + cut] + told + hay[start + cut : start + room]
        rows.append([*begins, *hidden, *asked, *answer])
        counted.append([False] * (length - len(answer)) + [True] * len(answer))
    return Windows(torch.tensor(rows), torch.tensor(counted))
