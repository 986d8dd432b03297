"""What can be asked of a training step: each method and its sizes in one frozen dataclass."""

from dataclasses import dataclass

from lengthwise.extend.method import whole


@dataclass(frozen=True)
class Memory:
    """A way to need less memory for the same gradients; see the subclasses."""


@dataclass(frozen=True)
class StreamBP(Memory):
    """Run every layer forward and backward in chunks of the sequence.

    A layer keeps its input alone. Going back, its keys and values are computed once for the whole
    sequence, then chunks of queries are recomputed from the last to the first, and each hands its
    share of the gradient to the keys and values of the chunks before it.

    Source: Luo et al. 2025, StreamBP (arXiv:2506.03077), section 3.2.2.
    Differs from the source: chunks go backward in time, so the projections to keys and values are
        differentiated once per token and not once per chunk, no graph is retained, and the
        forward runs in chunks as well; padding, windows and packed documents are covered.
    Reduces to: gradient checkpointing of whole layers, where the sequence fits in one chunk.

    Args:
        chunk: Tokens in all rows of the batch that a layer works on at once, at least 1.

    Raises:
        ValueError: A chunk below 1.
    """

    chunk: int = 2048

    def __post_init__(self) -> None:
        whole("StreamBP", "chunk", self.chunk, 1)


@dataclass(frozen=True)
class TiledMLP(Memory):
    """Run every MLP in tiles of tokens, and again tile by tile going back.

    Source: Bekman et al. 2025, Arctic Long Sequence Training (arXiv:2506.13996), TiledMLP.
    Differs from the source: tiles are counted in tokens and not in shards.
    Reduces to: the MLP itself, untouched, where the tokens fit in one tile: below that, tiling
        would run the MLP a second time and save nothing.

    Args:
        tokens: Tokens in all rows of the batch per tile, at least 1.

    Raises:
        ValueError: Tokens below 1.
    """

    tokens: int = 4096

    def __post_init__(self) -> None:
        whole("TiledMLP", "tokens", self.tokens, 1)


@dataclass(frozen=True)
class TiledLoss(Memory):
    """Logits and cross-entropy in tiles of tokens, with the gradient computed on the way.

    A training forward with labels returns empty logits `[b, 0, v]`: they are never all in memory.
    A forward without labels, or where gradients are off, returns them as before.

    Source: Bekman et al. 2025, Arctic Long Sequence Training (arXiv:2506.13996), tiled logits
        and loss; the gradient on the way as in Hsu et al. 2024, Liger Kernel (arXiv:2410.10989).
    Differs from the source: the gradient of the head is summed in float32 (float64 for float64).
    Reduces to: the model's own loss; in float64 it stays in float64, where transformers rounds
        logits to float32.

    Args:
        tokens: Tokens in all rows of the batch per tile, at least 1.

    Raises:
        ValueError: Tokens below 1.
    """

    tokens: int = 1024

    def __post_init__(self) -> None:
        whole("TiledLoss", "tokens", self.tokens, 1)


@dataclass(frozen=True)
class Offload(Memory):
    """Keep the inputs of layers in host memory, copied while the next layer computes.

    Layers are checkpointed: alone, `Offload()` is gradient checkpointing with its checkpoints on
    the host; with `StreamBP`, the inputs that StreamBP keeps go there. On a CPU the host's memory
    is the device's, so nothing is copied and nothing is saved.

    Source: Bekman et al. 2025, Arctic Long Sequence Training (arXiv:2506.13996), activation
        checkpoint offload to the CPU.
    Differs from the source: copies run on a stream of their own, the next input back is fetched
        while a layer goes back.
    Reduces to: gradient checkpointing, bit for bit.
    """
