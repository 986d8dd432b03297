"""How fast are documents assigned to bins, and how full are the bins?

python benchmarks/packers.py           1,000,000 documents of a long tail at 2,048 tokens; 100,000
                                       beside TRL; the standard library; small cases beside HiGHS
"""

import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import trl
from shape import write
from tokenizers import Tokenizer

import lengthwise
from lengthwise.measure.tasks.text import read_text, standard_library_files
from lengthwise.train.data.packers import PACKERS, StreamingPacker, best_fit_bins

CAPACITY = 2048
REPEATS = 5


def long_tail(documents: int, mean: int, seed: int, capacity: int = CAPACITY) -> np.ndarray:
    """Lognormal lengths, cut at the capacity."""
    draws = np.random.default_rng(seed).lognormal(0.0, 1.1, documents)
    return np.clip(draws * mean / np.exp(1.1**2 / 2), 1, capacity).astype(np.int64)


def streaming(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    packer = StreamingPacker(capacity, open_bins=64)
    bins = []
    for index, length in enumerate(lengths.tolist()):
        bins += packer.add(index, length)
    return bins + packer.finish()


def checked(bins: np.ndarray, lengths: np.ndarray, capacity: int) -> int:
    """The number of bins, after a look that none is too full and every document is in one."""
    held = np.bincount(bins, weights=lengths)
    assert len(bins) == len(lengths) and held.min() > 0 and held.max() <= capacity
    return len(held)


def numbers(bins: list[list[int]], documents: int) -> np.ndarray:
    result = np.full(documents, -1)
    for number, indices in enumerate(bins):
        assert (result[indices] == -1).all()
        result[indices] = number
    return result


def timed(name: str, pack: Callable, lengths: np.ndarray, capacity: int, repeats: int) -> dict:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        bins = pack(lengths, capacity)
        seconds.append(time.perf_counter() - began)
    if isinstance(bins, list):
        bins = numbers(bins, len(lengths))
    count = checked(bins, lengths, capacity)
    row = {
        "who": name, "documents": len(lengths), "tokens": int(lengths.sum()), "capacity": capacity,
        "bins": count, "utilisation": float(lengths.sum()) / (capacity * count),
        "fewest_possible_by_tokens": -(-int(lengths.sum()) // capacity),
        "seconds": {"median": statistics.median(seconds), "low": min(seconds),
                    "high": max(seconds)},
    }  # fmt: skip
    print(f"{name:<28} {len(lengths):>9,} documents {row['seconds']['median']:>8.3f} s "
          f"{count:>8,} bins {100 * row['utilisation']:>7.2f} %", flush=True)  # fmt: skip
    return row


def beside_trl() -> list[dict]:
    """TRL's time holds the moving of tokens too, so only the bins are to be compared here."""
    lengths = long_tail(100_000, 340, seed=1)
    rows = [timed("best_fit, 100,000", best_fit_bins, lengths, CAPACITY, REPEATS)]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(ends[-1], dtype=np.int32) % 4096
    documents = datasets.Dataset.from_dict({"input_ids": [tokens[a:b] for a, b in pairwise(ends)]})
    datasets.disable_caching()
    for name, size in (("TRL bfd, full set", 100_000), ("TRL bfd, its default batch", 1000)):
        began = time.perf_counter()
        packed = trl.pack_dataset(
            documents, CAPACITY, strategy="bfd", map_kwargs={"batch_size": size}
        )
        seconds = time.perf_counter() - began
        rows.append({"who": name, "documents": len(lengths), "tokens": int(lengths.sum()),
                     "capacity": CAPACITY, "bins": len(packed),
                     "utilisation": float(lengths.sum()) / (CAPACITY * len(packed)),
                     "seconds_with_moving_tokens": seconds})  # fmt: skip
        print(f"{name:<28} {seconds:.2f} s with moving tokens, {len(packed):,} bins", flush=True)
    return rows


def standard_library() -> list[dict]:
    path = Path(lengthwise.__file__).parent / "assets" / "lab" / "tokenizer.json"
    files = sorted(standard_library_files(False) + standard_library_files(True))
    texts = [text for text in map(read_text, files) if text]
    documents = [
        len(encoding.ids) for encoding in Tokenizer.from_file(str(path)).encode_batch(texts)
    ]
    rows = []
    for capacity in (1024, 2048, 8192):
        pieces = np.array([
            min(capacity, length - start)
            for length in documents for start in range(0, length, capacity)
        ])  # fmt: skip
        for name in ("best_fit", "spfhp", "first_fit", "greedy"):
            rows.append(timed(f"{name}, library at {capacity}", PACKERS[name], pieces, capacity, 1))
    return rows


def beside_the_optimum() -> list[dict]:
    """40 small cases; the bins of each packer in all of them."""
    total: dict[str, int] = dict.fromkeys(PACKERS, 0)
    for seed in range(40):
        lengths = long_tail(24, 14, seed, capacity=48)
        for name, packer in PACKERS.items():
            total[name] += len(packer(lengths, 48))
    print("40 small cases, bins in all:", total, flush=True)
    return [{"who": name, "small_cases": 40, "bins": bins, "optimum": total["exact"]}
            for name, bins in total.items()]  # fmt: skip


def main() -> None:
    print(f"{os.cpu_count()} cores")
    million = long_tail(1_000_000, 340, seed=0)
    rows = [timed("best_fit, bin numbers", best_fit_bins, million, CAPACITY, REPEATS)]
    for name in ("best_fit", "spfhp", "greedy"):
        rows.append(timed(f"{name}, lists", PACKERS[name], million, CAPACITY, REPEATS))
    rows.append(timed("streaming, 64 open bins", streaming, million, CAPACITY, REPEATS))
    rows.append(timed("first_fit, lists", PACKERS["first_fit"], million, CAPACITY, 1))
    rows += beside_trl() + standard_library() + beside_the_optimum()
    write("packers", "How fast are documents assigned to bins, and how full are the bins?", rows)


if __name__ == "__main__":
    main()
