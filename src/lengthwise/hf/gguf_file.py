"""The head of a GGUF file, read without torch: what it says of its model, and its tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lengthwise.hf.gguf_table import (
    ARCHITECTURES,
    DIGITS,
    EXPRESSIONS,
    SPLITS,
    Architecture,
    unknown,
)

SUFFIX = ".gguf"
_MOST = 1 << 32  # entries, and bytes of a string, that a head is believed to have
# Types of metadata values by their numbers; 8 is a string, 9 an array.
_FORMATS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
# Statements (below `llama.` and its like) that transformers reads itself.
_READ = (
    "context_length", "block_count", "feed_forward_length", "embedding_length", "vocab_size",
    "rope.freq_base", "rope.dimension_count", "attention.head_count", "attention.head_count_kv",
)  # fmt: skip
SCALING = "rope.scaling."
# How much of a text a quantiser saw, or how it was made, changes no forward pass.
_IDLE = ("rope.scaling.finetuned", "attention.value_length")
_ELSEWHERE = ("token_embd.weight", "output.weight", "output_norm.weight")
LLAMA3, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"

# What a model is built by: a kind of number, and its range.
_MOST_WIDE = 1 << 24
_RANGES: dict[str, tuple[type, float, float]] = {
    "block_count": (int, 1, 10_000), "context_length": (int, 1, (1 << 31) - 1),
    "embedding_length": (int, 1, _MOST_WIDE), "feed_forward_length": (int, 1, _MOST_WIDE),
    "attention.head_count": (int, 1, 1 << 16), "attention.head_count_kv": (int, 1, 1 << 16),
    "attention.key_length": (int, 1, 1 << 16), "attention.sliding_window": (int, 1, 1 << 31),
    "attention.layer_norm_epsilon": (float, 1e-30, 1), "expert_count": (int, 1, 1 << 16),
    "expert_used_count": (int, 1, 1 << 16), "expert_feed_forward_length": (int, 1, _MOST_WIDE),
    "vocab_size": (int, 1, _MOST_WIDE), "rope.freq_base": (float, 1e-9, 1e30),
    "rope.dimension_count": (int, 1, 1 << 16), "rope.scaling.factor": (float, 1e-9, 1e9),
    "rope.scaling.attn_factor": (float, 1e-9, 1e9),
    "rope.scaling.original_context_length": (int, 1, 1 << 31),
    "attention.layer_norm_rms_epsilon": (float, 1e-30, 1),
    "attn_logit_softcapping": (float, 1e-9, 1e9), "final_logit_softcapping": (float, 1e-9, 1e9),
}  # fmt: skip
_NEEDED = (
    "block_count", "context_length", "embedding_length", "feed_forward_length",
    "attention.head_count",
)  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: its type (ggml's number), its shape as torch has it, and its bytes."""

    kind: int
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Head:
    """What a file says before its weights.

    Attributes:
        metadata: By their keys; of an array of strings only the number of entries.
        tensors: By their names in the file.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it: `llama`, `qwen2` …"""
        return str(self.metadata["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:
        """What the file says of its architecture: `get("rope.freq_base")`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def is_gguf(name: str) -> bool:
    """Whether a MODEL is a GGUF file by its name."""
    return name.endswith(SUFFIX)


def read_head(path: Path) -> Head:
    """The head of a whole file.

    Raises:
        ValueError: There is no such file, it is no GGUF file, is one part of several, is cut
            short, or holds a type of number that is not known.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file: it does not begin with GGUF")
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                head = _Reader(data, path).head()
        except (struct.error, IndexError):
            raise ValueError(f"{path} is cut short: its head does not end") from None
    size = path.stat().st_size
    needed = max((one.start + one.size for one in head.tensors.values()), default=0)
    if needed > size:
        raise ValueError(
            f"{path} is cut short: its tensors end at {needed:,} bytes, it has {size:,}"
        )
    placed = sorted((one.start, one.start + one.size, name) for name, one in head.tensors.items())
    for (_, end, first), (start, _, second) in pairwise(placed):
        if start < end:
            raise ValueError(f"{path} is damaged: its tensors {first} and {second} overlap")
    return head


def check_gguf(path: Path) -> Head:
    """The head of a file whose model can be read as it is meant.

    Raises:
        ValueError: As `read_head`; for an architecture that is not read, and for a statement, a
            tensor or a tokenizer that would not be honoured.
    """
    head = read_head(path)
    arch = head.architecture
    if arch not in ARCHITECTURES:
        raise ValueError(unknown(arch, path))
    holds = ARCHITECTURES[arch]
    honoured = (*_READ, holds.epsilon, *holds.attributes, *_IDLE)
    for key in head.metadata:
        inner = key.removeprefix(f"{arch}.")
        scales = inner.startswith(SCALING) and holds.rotates
        if inner != key and inner not in honoured and not scales:
            raise ValueError(
                f"{path} says {key} = {str(head.metadata[key])[:40]}, which is not honoured here; "
                "convert the model from its own checkpoint instead"
            )
    _check_values(head, holds)
    _check_names(head, holds)
    _check_shapes(head)
    if head.get("attention.value_length") != head.get("attention.key_length"):
        raise ValueError(
            f"{path} has values of another size than keys ({head.get('attention.value_length')} "
            f"and {head.get('attention.key_length')} numbers), which is not read here"
        )
    kind, split = (head.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"{path} has a tokenizer of the kind {kind!r}; gpt2 and llama are read")
    known = holds.splits or (*SPLITS, *DIGITS, *EXPRESSIONS)
    if kind == "gpt2" and split not in known and (split is not None or holds.splits):
        raise ValueError(
            f"{path} splits texts as {split!r} before its tokenizer merges, which is not known "
            "here: it would count other tokens"
        )
    return head


def _check_names(head: Head, holds: Architecture) -> None:
    """Refuse tensors that would not be read, and layers that lack some.

    Raises:
        ValueError: Which.
    """
    layers, elsewhere = head.get("block_count"), (*_ELSEWHERE, *holds.elsewhere)
    if holds.rotates:
        elsewhere = (*elsewhere, LLAMA3, SHORT, LONG)
    wanted = (*holds.leaves, *(one for one in holds.optional if f"blk.0.{one}" in head.tensors))
    for name in head.tensors:
        block = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        if name not in elsewhere and (
            block is None or block[2] not in wanted or int(block[1]) >= layers
        ):
            raise ValueError(
                f"{head.path} has a tensor {name}, which a {head.architecture} model of {layers} "
                "layers here has no use for"
            )
    for layer in range(layers):
        for leaf in wanted:
            if f"blk.{layer}.{leaf}" not in head.tensors:
                raise ValueError(
                    f"{head.path} has {layers} layers, but no tensor blk.{layer}.{leaf}"
                )


def _check_values(head: Head, holds: Architecture) -> None:
    """Refuse statements that no model can be built by, before one is tried.

    Raises:
        ValueError: Which, and its range.
    """
    for key, (kind, low, high) in _RANGES.items():
        value = head.get(key)
        if value is None and key not in (*_NEEDED, holds.epsilon, *holds.needed):
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (kind is int and not isinstance(value, int)) or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(
                f"{head.path} says {head.architecture}.{key} = {str(value)[:40]}; it must be "
                f"{what} from {low:g} to {high:g}"
            )
    heads, keys = head.get("attention.head_count"), head.get("attention.head_count_kv")
    if keys is not None and heads % keys:
        raise ValueError(f"{head.path} has {heads} heads, which {keys} heads of keys cannot share")
    if head.get("attention.key_length") is None and head.get("embedding_length") % heads:
        raise ValueError(
            f"{head.path} is {head.get('embedding_length')} numbers wide, which {heads} heads "
            "cannot share"
        )


def _check_shapes(head: Head) -> None:
    """Refuse tensors whose shapes are not those that the file states.

    Raises:
        ValueError: Which.
    """
    width, inner = head.get("embedding_length"), head.get("feed_forward_length")
    heads = head.get("attention.head_count")
    keys = head.get("attention.head_count_kv", heads)
    size = head.get("attention.key_length", width // heads)
    experts, each = head.get("expert_count", 0), head.get("expert_feed_forward_length", 0)
    rows = head.get("vocab_size")
    table = head.tensors.get("token_embd.weight")
    if table is None:
        raise ValueError(f"{head.path} has no tensor token_embd.weight")
    rows = table.shape[0] if rows is None else rows
    words = head.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(words, int) or words > rows:
        raise ValueError(
            f"{head.path} has {words if isinstance(words, int) else 'no'} tokens in its tokenizer, "
            f"and a model of {rows:,}"
        )
    wanted = {
        "attn_q": (heads * size, width), "attn_k": (keys * size, width),
        "attn_v": (keys * size, width), "attn_output": (width, heads * size),
        "attn_qkv": ((heads + 2 * keys) * size, width), "ffn_gate": (inner, width),
        "ffn_up": ((2 if head.architecture == "phi3" else 1) * inner, width),
        "ffn_down": (width, inner), "token_embd": (rows, width), "output": (rows, width),
        "attn_q_norm": (size,), "attn_k_norm": (size,), "ffn_gate_inp": (experts, width),
        "ffn_gate_exps": (experts, each, width), "ffn_up_exps": (experts, each, width),
        "ffn_down_exps": (experts, width, each),
    }  # fmt: skip
    for name, tensor in head.tensors.items():
        leaf, kind = name.split(".")[-2:]
        shape = wanted.get(leaf, (width,) if leaf.endswith("norm") else tensor.shape)
        shape = shape[:1] if kind == "bias" else shape
        if tensor.shape != shape:
            raise ValueError(
                f"{head.path} has a tensor {name} of the shape {list(tensor.shape)}; by what it "
                f"states that must be {list(shape)}"
            )


class _Reader:
    """Goes through a head once, from its start."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 4

    def head(self) -> Head:
        (version,) = self._take("I")
        if version not in (2, 3):
            raise ValueError(f"{self.path} is GGUF version {version}; versions 2 and 3 are read")
        tensors, entries = self._take("QQ")
        if max(tensors, entries) > _MOST:
            raise ValueError(f"{self.path} is damaged: it claims {max(tensors, entries):,} entries")
        metadata = {}
        for _ in range(entries):
            key = self._string()
            if key in metadata:
                raise ValueError(f"{self.path} is damaged: it says {key[:40]} twice")
            metadata[key] = self._value(self._take("I")[0])
        if not isinstance(metadata.get("general.architecture"), str):
            raise ValueError(f"{self.path} is damaged: it does not say its general.architecture")
        parts, number = metadata.get("split.count", 1), metadata.get("split.no", 0)
        if not isinstance(parts, int) or not isinstance(number, int):
            raise ValueError(f"{self.path} is damaged: it is part {number!r} of {parts!r}")
        if parts > 1:
            raise ValueError(
                f"{self.path} is part {number + 1} of {parts}; join the parts with llama.cpp's "
                "llama-gguf-split --merge"
            )
        infos = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"{self.path} is damaged: its alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        placed = {
            name: Tensor(kind, shape, start + offset, _bytes_of(kind, shape, name, self.path))
            for name, kind, shape, offset in infos
        }
        if len(placed) < tensors:
            raise ValueError(f"{self.path} is damaged: it has a tensor twice")
        return Head(self.path, metadata, placed)

    def _take(self, form: str) -> tuple[Any, ...]:
        if self.at > len(self.data):
            raise IndexError
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def _string(self) -> str:
        (length,) = self._take("Q")
        end = self.at + length
        if end > len(self.data):
            raise IndexError
        words = self.data[self.at : end].decode("utf-8", errors="replace")
        self.at = end
        return words

    def _value(self, kind: int) -> Any:
        if kind in _FORMATS:
            return self._take(_FORMATS[kind])[0]
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"{self.path} is damaged: a value of the type {kind}")
        inner, count = self._take("IQ")
        if count > _MOST:
            raise IndexError
        if inner in _FORMATS:
            return list(self._take(f"{count}{_FORMATS[inner]}"))
        if inner != _STRING:
            raise ValueError(f"{self.path} is damaged: an array of the type {inner}")
        for _ in range(count):
            (length,) = self._take("Q")
            self.at += length
        return count

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string()
        (dimensions,) = self._take("I")
        if dimensions > 8:
            raise ValueError(f"{self.path} is damaged: {name} has {dimensions:,} dimensions")
        shape = self._take(f"{dimensions}Q")[::-1]  # ggml's order is the other way round
        kind, offset = self._take("IQ")
        return name, kind, shape, offset


def _bytes_of(kind: int, shape: tuple[int, ...], name: str, path: Path) -> int:
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError:
        raise ValueError(f"{path}: to read GGUF files, pip install 'lengthwise[gguf]'") from None
    try:
        numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise ValueError(f"{path}: {name} is stored as type {kind}, which is not known") from None
    count = 1
    for one in shape:
        count *= one
    return count // numbers * size
