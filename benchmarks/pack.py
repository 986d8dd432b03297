"""How long does packing take, from Arrow to Arrow, and does its memory grow with the corpus?

python benchmarks/pack.py              100,000 documents of 34 million tokens into rows of 2,048,
                                       against TRL's pack_dataset(strategy="bfd") over the full
                                       set; then the peak memory of fresh processes on corpora
                                       2, 4 and 8 times as large

All files lie in memory where the machine has /dev/shm: a disk that others use as well would be
what is measured.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lengthwise.train.data.arrow import write_arrow
from lengthwise.train.data.pipeline import pack

DOCUMENTS, TOKENS, CAPACITY = 100_000, 34_000_000, 2048
VOCABULARY = 32_000  # Llama 2's and Mistral's: tokens fit 16 bits
REPEATS = 5
GROWTH = (2, 4, 8)  # times the corpus


def corpus(folder: Path, times: int) -> int:
    """Write a directory that datasets reads: lengths log-normal, a long tail cut at a row."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    total, files = 0, []
    for number in range(times):
        drawn = np.exp(rng.normal(5.2, 1.0, DOCUMENTS))
        lengths = np.clip(drawn * (TOKENS / drawn.sum()), 1, CAPACITY).astype(np.int64)
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
        values = rng.integers(0, VOCABULARY, offsets[-1], dtype=np.int32)
        tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        table = pa.table({"input_ids": tokens})
        name = f"data-{number:05d}.arrow"
        write_arrow(folder / name, table.schema, table.to_batches(max_chunksize=1000))
        files.append({"filename": name})
        total += int(offsets[-1])
    Dataset.from_dict({"input_ids": [[1]]}).save_to_disk(folder / "model")
    state = json.loads((folder / "model" / "state.json").read_text(encoding="utf-8"))
    (folder / "state.json").write_text(json.dumps({**state, "_data_files": files}))
    shutil.copy(folder / "model" / "dataset_info.json", folder)
    shutil.rmtree(folder / "model")
    return total


def theirs(folder: Path) -> int:
    from datasets import load_from_disk
    from trl import pack_dataset

    dataset = load_from_disk(folder)
    whole = {"batch_size": len(dataset), "load_from_cache_file": False}
    return len(pack_dataset(dataset, CAPACITY, "bfd", map_kwargs=whole))


def ours(folder: Path, output: Path, slim: bool, vocabulary: int = 0) -> int:
    return pack(folder, output, CAPACITY, slim=slim, vocabulary=vocabulary, workers=2).tally.rows


def compare(work: Path) -> list[dict[str, Any]]:
    """Both sides in turns, so that what else the machine does hits both."""
    source = work / "corpus-1"
    total = corpus(source, 1)
    sides = {
        "trl pack_dataset bfd": lambda n: theirs(source),
        "lengthwise, the same columns": lambda n: ours(source, work / f"slim-{n}", True),
        "lengthwise, all six columns": lambda n: ours(source, work / f"all-{n}", False, VOCABULARY),
        "lengthwise, all six, vocabulary unknown": lambda n: ours(source, work / f"any-{n}", False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rows = {}
    for number in range(-1, REPEATS):  # the first round warms up
        for name, run in sides.items():
            began = time.perf_counter()
            rows[name] = run(number)
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
        for path in [*work.glob("slim-*"), *work.glob("a*-*"), *source.glob("cache-*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    base = statistics.median(seconds["trl pack_dataset bfd"])
    found = []
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = {"median": median, "low": min(times), "high": max(times)}
        print(f"{name:<40} {median:>7.3f} s  {base / median:>5.1f} times  {rows[name]:,} rows")
        found.append({"who": name, "documents": DOCUMENTS, "tokens": total, "rows": rows[name],
                      "seconds": spread, "times_faster": base / median})  # fmt: skip
    return found


def memory(work: Path) -> list[dict[str, Any]]:
    """The peak resident size of a process that packs, above one that has only imported."""
    found = []
    for times in (0, *GROWTH):
        source = work / f"corpus-{times}"
        total = corpus(source, times) if times and not source.exists() else times * TOKENS
        words = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--peak",
            str(source),
            str(work / f"peak-{times}"),
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peak = int(done.stdout)
        print(f"peak memory at {total:>12,} tokens: {peak / 1e6:,.0f} MB")
        found.append({"who": "lengthwise, peak resident bytes", "tokens": total, "bytes": peak})
        shutil.rmtree(work / f"peak-{times}", ignore_errors=True)
        shutil.rmtree(source, ignore_errors=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=2, metavar=("SOURCE", "OUTPUT"))
    asked = parser.parse_args().peak
    if asked:
        if Path(asked[0]).exists():
            pack(asked[0], asked[1], CAPACITY)
        # Not ru_maxrss, which a process inherits from the one that started it.
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        line = next(line for line in status if line.startswith("VmHWM:"))
        print(int(line.split()[1]) * 1024)
        return
    from shape import write

    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as folder:
        rows = compare(Path(folder)) + memory(Path(folder))
    write("pack", "How long does packing take, and does its memory grow with the corpus?", rows)


if __name__ == "__main__":
    main()
