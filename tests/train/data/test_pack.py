"""Packing a corpus into rows: what rows hold, what is counted, what a run leaves behind."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, load_dataset, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.testing.models import tiny_model
from lengthwise.train.data import PACKERS, best_fit
from lengthwise.train.data.arrow import write_arrow
from lengthwise.train.data.pipeline import Sizes, pack
from lengthwise.train.data.weights import sequence_loss_weights

SMALL = Sizes(part_bytes=300, block_tokens=200, block_documents=30, file_tokens=100)
COLUMNS = {
    "input_ids", "labels", "position_ids", "segment_ids", "loss_weights", "seq_lengths",
}  # fmt: skip


def numbers(lengths: Iterable[int]) -> list[list[int]]:
    """Documents whose tokens occur nowhere else."""
    documents, at = [], 0
    for length in lengths:
        documents.append(list(range(at, at + length)))
        at += length
    return documents


def saved(documents: list[list[int]], folder: Path, **columns: list[Any]) -> Path:
    Dataset.from_dict({"input_ids": documents, **columns}).save_to_disk(folder)
    return folder


def pieces(folder: Path) -> list[list[int]]:
    """The documents of all rows, as they lie there."""
    found = []
    for row in load_from_disk(folder):
        ends = np.cumsum(row["seq_lengths"])
        assert ends[-1] == len(row["input_ids"])
        found += [
            row["input_ids"][e - n : e] for e, n in zip(ends, row["seq_lengths"], strict=True)
        ]
    return found


def same(one: list[list[int]], other: list[list[int]]) -> bool:
    return Counter(map(tuple, one)) == Counter(map(tuple, other))


def data(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.arrow")}


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(any),
    capacity=st.integers(2, 50),
    overflow=st.sampled_from(["split", "truncate"]),
    packer=st.sampled_from([name for name in PACKERS if name != "exact"]),
)
def test_every_token_is_there_once(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int], capacity: int, overflow: str, packer: str,
) -> None:  # fmt: skip
    tmp = tmp_path_factory.mktemp("once")
    documents = numbers(lengths)
    batch = pa.record_batch({"input_ids": pa.array(documents, pa.list_(pa.int64()))})
    write_arrow(tmp / "corpus.arrow", batch.schema, [batch])
    report = pack(
        tmp / "corpus.arrow", tmp / "out", capacity, overflow=overflow, packer=packer, sizes=SMALL
    )
    if overflow == "split":
        kept = [d[i : i + capacity] for d in documents for i in range(0, len(d), capacity)]
    else:
        kept = [d[:capacity] for d in documents if d]
    assert same(pieces(tmp / "out"), kept)
    long = sum(length > capacity for length in lengths)
    tally = report.tally
    assert (tally.documents, tally.empty) == (len(lengths), lengths.count(0))
    assert (tally.tokens, tally.packed) == (sum(lengths), sum(map(len, kept)))
    assert (tally.cut, tally.dropped) == (long, 0)
    assert tally.dropped_tokens == sum(lengths) - sum(map(len, kept))
    assert tally.rows == len(load_from_disk(tmp / "out"))
    assert all(len(row) <= capacity for row in load_from_disk(tmp / "out")["input_ids"])


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(any),
    batch=st.integers(1, 70),
    small=st.booleans(),
)
def test_mapped_and_copied_documents_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], batch: int, small: bool
) -> None:
    tmp = tmp_path_factory.mktemp("mapped")
    documents = numbers(lengths)
    for kind in (pa.int32(), pa.int64()):  # read where they lie, and converted
        table = pa.table({"input_ids": pa.array(documents, pa.list_(kind))})
        batches = table.to_batches(max_chunksize=batch)
        write_arrow(tmp / f"{kind}.arrow", table.schema, batches)
        pack(tmp / f"{kind}.arrow", tmp / f"{kind} out", 16, sizes=SMALL if small else None)
    one, other = (load_from_disk(tmp / f"{kind} out")[:] for kind in ("int32", "int64"))
    assert one == other


@pytest.mark.parametrize(
    ("vocabulary", "labelled", "kinds"),
    [
        (0, False, ("int32", "int32")),
        (1 << 15, False, ("int16", "int32")),
        (1 << 15, True, ("int16", "int32")),
        (1 + (1 << 15), False, ("int32", "int32")),
    ],
)
def test_tokens_of_a_small_vocabulary_take_two_bytes(
    tmp_path: Path, vocabulary: int, labelled: bool, kinds: tuple[str, str]
) -> None:
    documents = [[0, 7, 32_767], [32_767, 1]]
    labels = {"labels": [[-100, 7, 32_766], [-100, 1]]} if labelled else {}
    pack(saved(documents, tmp_path / "in", **labels), tmp_path / "out", 8, vocabulary=vocabulary)
    rows = load_from_disk(tmp_path / "out")
    features = rows.features
    assert (features["input_ids"].feature.dtype, features["labels"].feature.dtype) == kinds
    assert same(pieces(tmp_path / "out"), documents)
    assert 32_766 * labelled in [*rows[0]["labels"], 0]
    assert rows.with_format("torch")[0]["input_ids"].dtype == torch.int64


def test_a_corpus_that_is_labelled_in_part_is_one_dataset(tmp_path: Path) -> None:
    parts = {"a": None, "b": [[-100, 6, 7]]}
    for number, (name, labels) in enumerate(parts.items()):
        columns = {"input_ids": [[5, 6, 7 + number]], **({"labels": labels} if labels else {})}
        Dataset.from_dict(columns).to_parquet(tmp_path / "in" / f"{name}.parquet")
    one_each = Sizes(block_documents=1)
    pack(tmp_path / "in", tmp_path / "out", 4, vocabulary=100, sizes=one_each)
    rows = load_from_disk(tmp_path / "out")
    assert sorted(rows["labels"]) == [[-100, 6, 7], [-100, 6, 7]] and len(rows) == 2


def test_columns_of_a_row(tmp_path: Path) -> None:
    documents = numbers([5, 3, 1, 7, 2, 8, 4, 4])
    labels = [[-100] * min(2, len(d) - 1) + d[min(2, len(d) - 1) :] for d in documents]
    for own in (None, labels):
        source = saved(documents, tmp_path / f"in{own is None}", **({"labels": own} if own else {}))
        pack(source, tmp_path / f"out{own is None}", 10)
        expected = {d[0]: (own or documents)[i] for i, d in enumerate(documents)}
        for row in load_from_disk(tmp_path / f"out{own is None}"):
            assert row.keys() == COLUMNS
            lengths = row["seq_lengths"]
            firsts = np.cumsum(lengths) - lengths
            assert row["position_ids"] == [p for n in lengths for p in range(n)]
            assert row["segment_ids"] == [s for s, n in enumerate(lengths) for _ in range(n)]
            want = [t for f in firsts for t in expected[row["input_ids"][f]]]
            for first in firsts:
                want[first] = -100
            assert row["labels"] == want
            weights = sequence_loss_weights(lengths, row["labels"])
            np.testing.assert_allclose(row["loss_weights"], weights, rtol=1e-6)


def test_best_fit_in_one_block_has_the_rows_of_best_fit(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 64, 500)
    documents = numbers(lengths.tolist())
    pack(saved(documents, tmp_path / "in"), tmp_path / "out", 64)
    rows = {tuple(row) for row in load_from_disk(tmp_path / "out")["input_ids"]}
    assert rows == {tuple(t for i in b for t in documents[i]) for b in best_fit(lengths, 64)}


def test_the_seed_orders_rows_and_nothing_else_does(tmp_path: Path) -> None:
    source = saved(numbers([3, 9, 4, 1, 6, 2, 8, 5] * 20), tmp_path / "in")
    for name, asked in (("a", {}), ("again", {"workers": 2}), ("b", {"seed": 1})):
        pack(source, tmp_path / name, 12, sizes=SMALL, **asked)
    assert data(tmp_path / "a") == data(tmp_path / "again") != data(tmp_path / "b")
    assert same(pieces(tmp_path / "a"), pieces(tmp_path / "b"))


@pytest.mark.parametrize("capacity", [40_000, 8])
def test_numbers_fit_their_columns(tmp_path: Path, capacity: int) -> None:
    long = list(range(39_999))
    pack(saved([long, [1]], tmp_path / "in"), tmp_path / "out", capacity)
    rows = load_from_disk(tmp_path / "out")
    assert sum(map(len, rows["input_ids"])) == 40_000
    if capacity == 40_000:
        assert rows[0]["position_ids"] in ([*range(39_999), 0], [0, *range(39_999)])


def test_datasets_reads_the_files_as_well_as_the_directory(tmp_path: Path) -> None:
    source = saved(numbers([3, 4, 5, 2] * 9), tmp_path / "in")
    pack(source, tmp_path / "out", 7, sizes=SMALL)
    files = str(tmp_path / "out" / "*.arrow")
    loaded = load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path / "c"))
    assert same(loaded["input_ids"], load_from_disk(tmp_path / "out")["input_ids"])
    shown = load_from_disk(tmp_path / "out").with_format("torch")[0]
    assert shown["position_ids"].dtype == torch.int64


def test_slim_leaves_out_what_collators_can_make(tmp_path: Path) -> None:
    source = saved(numbers([3, 4]), tmp_path / "in")
    pack(source, tmp_path / "slim", 8, slim=True)
    assert load_from_disk(tmp_path / "slim").column_names == ["input_ids", "seq_lengths"]
    labelled = saved([[1, 2]], tmp_path / "labelled", labels=[[-100, 2]])
    pack(labelled, tmp_path / "both", 8, slim=True)
    names = ["input_ids", "labels", "seq_lengths"]
    assert load_from_disk(tmp_path / "both").column_names == names


def test_a_mask_for_axolotl(tmp_path: Path) -> None:
    source = saved(numbers([3, 4, 6]), tmp_path / "in")
    pack(source, tmp_path / "out", 8, mask=True)
    for row in load_from_disk(tmp_path / "out"):
        assert row.keys() == {*COLUMNS, "attention_mask"}
        assert row["attention_mask"] == [1] * len(row["input_ids"])


@pytest.mark.parametrize("policy", ["split", "truncate", "drop", "raise"])
def test_documents_longer_than_a_row(tmp_path: Path, policy: str) -> None:
    documents = numbers([3, 25, 0, 4])
    source = saved(documents, tmp_path / "in")
    if policy == "raise":
        with pytest.raises(ValueError, match=r"document 1 has 25 tokens, .* capacity 10; .*split"):
            pack(source, tmp_path / "out", 10, overflow=policy)
        return
    tally = pack(source, tmp_path / "out", 10, overflow=policy).tally
    cut, dropped, tokens = {"split": (1, 0, 0), "truncate": (1, 0, 15), "drop": (0, 1, 25)}[policy]
    assert (tally.cut, tally.dropped, tally.dropped_tokens) == (cut, dropped, tokens)
    long = documents[1]
    left = {"split": [long[:10], long[10:20], long[20:]], "truncate": [long[:10]], "drop": []}
    assert same(pieces(tmp_path / "out"), [documents[0], documents[3], *left[policy]])


def test_what_the_report_says(tmp_path: Path) -> None:
    # A row of 8 and 2, a row of 6 and 4, pieces of 10 and 3 from the long one.
    source = saved(numbers([8, 13, 6, 4, 2, 0]), tmp_path / "in")
    report = pack(source, tmp_path / "out", 10)
    tally = report.tally
    assert (tally.rows, tally.pieces, tally.longest) == (4, 6, 13)
    assert report.utilisation == pytest.approx(33 / 40)
    pairs = [n * (n + 1) / 2 for n in (8, 2, 6, 4, 10, 3)]
    rows = [n * (n + 1) / 2 for n in (10, 10, 10, 3)]
    assert report.saved == pytest.approx(1 - sum(pairs) / sum(rows))
    # Concatenated: 0-8, 8-21 (long), 21-27, 27-31 (cut at 30), 31-33.
    assert tally.would_cut == 1
    by_length = {name: rest for name, *rest in report.histogram()}
    assert by_length["2"] == [1, 2, 1, 2] and by_length["3 to 4"] == [1, 4, 2, 7]
    assert by_length["9 to 16"] == [1, 13, 1, 10] and by_length["5 to 8"] == [2, 14, 2, 14]
    text = (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")
    assert text == report.text() and "82.50%" in text and "would also cut 1 that fit" in text
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page == report.html() and page.count("<table>") == 3
    assert "http" not in page.replace("http-equiv", "") and "82.50%" in page
    record = json.loads((tmp_path / "out" / "pack.json").read_text(encoding="utf-8"))
    assert record["tally"]["packed"] == 33 and record["plan"]["rows"]["capacity"] == 10


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"capacity": 1}, "capacity must be at least 2 tokens, got 1"),
        ({"capacity": -5}, "capacity must be at least 2 tokens, got -5"),
        ({"overflow": "cut"}, "overflow must be one of split, truncate, drop, raise, got 'cut'"),
        ({"packer": "tetris"}, "packer must be one of best_fit, .*, got 'tetris'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"vocabulary": -1}, "vocabulary must be at least 1"),
        ({"vocabulary": 7}, r"document 2 has the token 7, and tokens must be from 0 to 6"),
        ({"sizes": Sizes(block_tokens=0)}, "block_tokens must be at least 1, got 0"),
        ({"column": "words"}, "has no words, only input_ids; name the column"),
        ({"tokenizer": "demo", "document": "page"}, "document must be file or line, got 'page'"),
    ],
)
def test_refused_and_nothing_left(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    source = saved(numbers([2, 4, 6]), tmp_path / "in")
    with pytest.raises(ValueError, match=words) as refused:
        pack(source, tmp_path / "out", **{"capacity": 8, **asked})
    assert "\n" not in str(refused.value)
    if "vocabulary" not in asked:  # noticed when tokens are there already
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("documents", [[], [[], [], []]])
def test_nothing_to_pack(tmp_path: Path, documents: list[list[int]]) -> None:
    column = pa.array(documents, pa.list_(pa.int32()))
    batch = pa.record_batch({"input_ids": column})
    write_arrow(tmp_path / "corpus.arrow", batch.schema, [batch])
    words = "all 3 documents of .* are empty" if documents else "holds no documents"
    with pytest.raises(ValueError, match=words):
        pack(tmp_path / "corpus.arrow", tmp_path / "out", 8)


def test_all_dropped(tmp_path: Path) -> None:
    source = saved(numbers([9, 9]), tmp_path / "in")
    with pytest.raises(ValueError, match=r"all 2 documents of .* are empty or longer than 8"):
        pack(source, tmp_path / "out", 8, overflow="drop")


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([[0, 1], [2, -1]], pa.int32(), "document 1 has the token -1, .* at least 0"),
        ([[3], [0, 1 << 40]], pa.int64(), "row 1: input_ids has 1099511627776; tokens are numbers"),
        (
            [[1], [1 << 31]],
            pa.uint64(),
            "row 1: input_ids has 2147483648; tokens are numb",
        ),
        ([[0.5, 1.0]], pa.float32(), "lists of float; tokens are whole numbers"),
        ([[], [1, None]], pa.int32(), "row 1: input_ids has a null; tokens are whole numbers"),
        ([[1], None], pa.int32(), r"row 1: input_ids is null.*--skip-bad"),
    ],
)
def test_bad_tokens(tmp_path: Path, values: list[Any], kind: pa.DataType, words: str) -> None:
    batch = pa.record_batch({"input_ids": pa.array(values, pa.list_(kind))})
    write_arrow(tmp_path / "corpus.arrow", batch.schema, [batch])
    with pytest.raises(ValueError, match=words):
        pack(tmp_path / "corpus.arrow", tmp_path / "out", 8)


def test_nulls_are_left_out_when_asked(tmp_path: Path) -> None:
    batch = pa.record_batch({"input_ids": pa.array([[1], None, [2, 3]], pa.list_(pa.int32()))})
    write_arrow(tmp_path / "corpus.arrow", batch.schema, [batch])
    report = pack(tmp_path / "corpus.arrow", tmp_path / "out", 8, skip_bad=True)
    assert same(pieces(tmp_path / "out"), [[1], [2, 3]])
    assert report.bad == 1 and report.named[0] in report.text() and "row 1" in report.named[0]


def test_labels_of_another_length(tmp_path: Path) -> None:
    source = saved([[1, 2], [3]], tmp_path / "in", labels=[[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="labels and input_ids differ in length"):
        pack(source, tmp_path / "out", 8)


def test_packed_rows_have_the_losses_of_their_documents(tmp_path: Path) -> None:
    """Through a plain transformers model that sees our columns and nothing else."""
    lengths = [5, 3, 1, 7, 2, 8, 4, 4]
    g = torch.Generator().manual_seed(0)
    documents = [torch.randint(3, 300, (n,), generator=g).tolist() for n in lengths]
    pack(saved(documents, tmp_path / "in"), tmp_path / "out", 12)
    model = tiny_model("llama", dtype=torch.float64)

    def losses(ids: list[int], positions: list[int], labels: list[int]) -> torch.Tensor:
        at = torch.tensor([positions])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), position_ids=at, use_cache=False).logits
        targets = torch.tensor(labels)[1:]
        return torch.nn.functional.cross_entropy(logits[0, :-1], targets, reduction="none")

    packed, weighted, alone = [], 0.0, {}
    for row in load_from_disk(tmp_path / "out"):
        found = losses(row["input_ids"], row["position_ids"], row["labels"])
        packed += found[found != 0].tolist()
        weighted += float((found * torch.tensor(row["loss_weights"])[1:]).sum())
    for i, d in enumerate(documents):
        alone[i] = losses(d, list(range(len(d))), d)
    torch.testing.assert_close(
        torch.tensor(sorted(packed)), torch.cat(list(alone.values())).sort().values.float(),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    means = sum(float(one.mean()) for one in alone.values() if len(one))
    assert weighted == pytest.approx(means, rel=1e-6)


def test_trl_and_trainer_read_the_rows(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl.trainer.sft_trainer")
    from transformers import default_data_collator

    pack(saved(numbers([5, 3, 4, 2, 6]), tmp_path / "in"), tmp_path / "out", 8)
    rows = load_from_disk(tmp_path / "out")
    collate = trl.DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([rows[0], rows[1]])
    flat = [p for row in (rows[0], rows[1]) for p in row["position_ids"]]
    assert batch["position_ids"][0].tolist() == flat
    labels = [label for row in (rows[0], rows[1]) for label in row["labels"]]
    assert batch["labels"][0].tolist() == labels
    plain = rows.select_columns(["input_ids", "labels", "position_ids"])
    batch = default_data_collator([plain[0]])
    assert batch["position_ids"].tolist() == [rows[0]["position_ids"]]


def test_packing_does_not_load_torch() -> None:
    code = "import sys, lengthwise.train.data.pipeline; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "False\n"
