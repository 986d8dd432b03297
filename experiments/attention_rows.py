"""Rows of attention itself: tiles, a state for a prefix, a batch without its padding.

python experiments/attention_rows.py attention/flash
"""

import random
import time
from collections.abc import Callable

import torch
from exact_rows import Row, main, mean
from torch import Tensor

import lengthwise as lw
from lengthwise.core.attention import attend
from lengthwise.core.attention.state import PrefixState
from lengthwise.core.attention.tiles import Tiles
from lengthwise.core.partial import Partial, merge
from lengthwise.core.regions import Region
from lengthwise.extend.adapt import adapt
from lengthwise.extend.unpadded import unpadded_logits
from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import NO_MODEL, at_least, at_most, exact
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.measure.tasks.text import held_out_text


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(impl: str, seed: int, t: int, region: Region) -> list[Tensor]:
    q, k, v = (drawn(seed + i, 1, h, t, 32).requires_grad_() for i, h in enumerate((4, 2, 2)))
    part = attend(q, k, v, [region], impl=impl)
    part.out.square().sum().backward()
    return [part.out.detach(), *(x.grad for x in (q, k, v) if x.grad is not None)]


def off(found: list[Tensor], wanted: list[Tensor]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def peak(impl: str, t: int) -> int:
    with PeakBytes(torch.device("cpu")) as counting:
        gradients(impl, 0, t, Region())
    assert counting.bytes is not None
    return counting.bytes


def both(seed: int, t: int, region: Region) -> tuple[list[Tensor], list[Tensor]]:
    return gradients("chunked", seed, t, region), gradients("reference", seed, t, region)


def flash_row() -> Row:
    seeds, size = range(20), 64
    whole, sparse, skipped = [], [], []
    for seed in seeds:
        t = random.Random(seed).randrange(200, 700)
        whole.append(off(*both(seed, t, Region())))
        tiles = -(-t // size)
        seen = (drawn(seed, 1, tiles, tiles) > 0.7) | torch.eye(tiles, dtype=torch.bool)
        sparse.append(off(*both(seed, t, Region(also=Tiles(seen, size)))))
        skipped.append(float((~seen).float().tril().sum() / tiles / (tiles + 1) * 2))
    grows = {impl: peak(impl, 2048) / peak(impl, 1024) for impl in ("chunked", "reference")}
    return {
        "model": NO_MODEL, "seeds": tuple(seeds), "items": {"items": len(seeds)},
        "numbers": {"apart": max(whole), "apart under tiles": max(sparse), "peak at twice": grows,
                    "tiles skipped": mean(skipped).value},
        "control": "one dense softmax over every pair",
        "premise": exact(at_least("its peak at twice the length", grows["reference"], 3.3)),
        "findings": [
            exact(at_most("output and gradients from the dense ones, of the largest", max(whole),
                          1e-4)),
            exact(at_most("the same under masks of tiles", max(sparse), 1e-4)),
            exact(at_most("peak at twice the length, forward and backward", grows["chunked"], 2.2,
                          "the dense softmax")),
            at_least("share of causal tiles that are never computed", mean(skipped), 0.3),
        ],
    }  # fmt: skip


class Prefix:
    """256 random keys with values that follow from them, and other keys behind them."""

    def __init__(self, seed: int, width: int, size: float) -> None:
        self.seed, self.width, self.size = seed, width, size
        self.keys = drawn(seed + 50, 1, 2, 256, width) * size
        self.values = drawn(seed + 90, 1, 2, 256, width) + self.keys / size

    def queries(self, fresh: int = 0) -> Tensor:
        return drawn(self.seed + 500 * fresh, 1, 2, 64, self.width) * self.size

    def beside(self, q: Tensor, part: Partial | None) -> Tensor:
        """Attention of queries over their own keys and a part for the prefix."""
        keys, values = (drawn(self.seed + i, 1, 2, 64, self.width) for i in (7, 8))
        own = attend(q, keys * self.size, values, [Region()], impl="reference")
        return (own if part is None else merge([part, own])).out

    def true(self, q: Tensor) -> Tensor:
        scores = q @ self.keys.transpose(-1, -2) * self.width**-0.5
        whole = Partial(torch.softmax(scores, -1) @ self.values, scores.logsumexp(-1))
        return self.beside(q, whole)

    def error(self, state: PrefixState, fresh: int = 0) -> float:
        """How far off a state leaves the output, of how far off no prefix does."""
        q = self.queries(fresh)
        right = self.true(q)
        found, without = self.beside(q, state.read(q)), self.beside(q, None)
        return float((found - right).norm() / (without - right).norm())


def trained_state(prefix: Prefix, start: PrefixState) -> PrefixState:
    """Both tensors of a state after 300 steps of Adam on other queries than are asked later."""
    values = start.values.clone().requires_grad_()
    weights = start.weights.log().requires_grad_()
    optimizer = torch.optim.Adam([values, weights], lr=0.05)
    for step in range(300):
        q = prefix.queries(fresh=2 + step)
        found = prefix.beside(q, PrefixState(values, weights.exp()).read(q))
        loss = (found - prefix.true(q)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return PrefixState(values.detach(), weights.detach().exp())


def ntk_row() -> Row:
    d, seeds = 16, range(20)
    orders, built, trained = [], [], []
    for seed in seeds:
        errors = []
        for size in (0.6, 0.3):
            prefix = Prefix(seed, d, size)
            errors.append(prefix.error(PrefixState.of(prefix.keys, prefix.values)))
        orders.append(errors[0] / errors[1])
        prefix = Prefix(seed, d, 0.6)
        start = PrefixState.of(prefix.keys, prefix.values, "positive")
        built.append(prefix.error(start, fresh=1))
        trained.append(prefix.error(trained_state(prefix, start), fresh=1))
    held = {n: PrefixState.of(drawn(0, 1, 2, n, d), drawn(1, 1, 2, n, d)).values.numel()
            for n in (64, 65536)}  # fmt: skip
    return {
        "model": NO_MODEL, "seeds": tuple(seeds), "trained": True, "items": {"items": len(seeds)},
        "numbers": {"with the paper's features, not trained": mean(built).value,
                    "trained": mean(trained).value, "numbers held": held},
        "control": "no prefix at all, whose error is 1; the paper's features without training",
        "premise": at_least("error with the paper's features, not trained", mean(built), 0.3),
        "findings": [
            exact(at_most("numbers held for 65,536 keys, of those for 64", held[65536] / held[64],
                          1)),
            at_least("error at logits four times as large, of that before", mean(orders), 4),
            at_most("error of a trained state on new queries, of that without prefix",
                    mean(trained), 0.3, "no prefix"),
        ],
    }  # fmt: skip


def byte_row() -> Row:
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    adapt(model.eval())
    ids = torch.tensor(tokenizer(held_out_text()[:60000], verbose=False)["input_ids"])
    ratios, shares, apart = [], [], []
    for seed in range(20):
        rng = random.Random(seed)
        lengths = [256, *(rng.randrange(16, 128) for _ in range(5))]
        rows, mask = (torch.zeros(6, 256, dtype=torch.long) for _ in range(2))
        for row, length in enumerate(lengths):
            start = rng.randrange(len(ids) - length)
            rows[row, :length], mask[row, :length] = ids[start : start + length], 1
        logits, seconds = {}, {}
        for side in ("padded", "ours") if seed % 2 else ("ours", "padded"):  # each first in turns
            with torch.no_grad():
                began = time.perf_counter()
                if side == "ours":
                    logits[side] = unpadded_logits(model, rows, mask)
                else:
                    logits[side] = model(rows, attention_mask=mask, use_cache=False).logits
                seconds[side] = time.perf_counter() - began
        padded, ours = logits["padded"], logits["ours"]
        ratios.append(seconds["ours"] / seconds["padded"])
        real = mask.bool()
        apart.append(float((padded[real] - ours[real]).abs().max()))
        shares.append(float(mask.float().mean()))
    return {
        "model": {"name": "demo", "fingerprint": fingerprint(model), "window": 512},
        "items": {"items": 20},
        "numbers": {"real tokens, of all places": mean(shares).value, "time": mean(ratios).value,
                    "apart": max(apart)},
        "control": "the padded batch",
        "findings": [
            exact(at_most("logits of real tokens from the padded ones", max(apart), 1e-3)),
            at_most("time, of the padded batch's, less the share of real tokens",
                    mean([a - b for a, b in zip(ratios, shares, strict=True)]), 0.15,
                    "the padded batch"),
            at_most("time, of the padded batch's", mean(ratios), 0.6, "the padded batch"),
        ],
    }  # fmt: skip


ROWS: dict[str, Callable[[], Row]] = {
    "attention/flash": flash_row,
    "attention/ntk": ntk_row,
    "attention/bytetransformer": byte_row,
}


if __name__ == "__main__":
    main(ROWS)
