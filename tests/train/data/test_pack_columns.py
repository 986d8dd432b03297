"""Columns beside the tokens: honoured, or refused by name with the row, whatever the format."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_from_disk

from lengthwise.train.data.pipeline import pack
from lengthwise.train.data.reading import Reading
from lengthwise.train.data.sources import open_source

Rows = list[dict[str, Any]]


def json_lines(folder: Path, rows: Rows) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def parquet(folder: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


def arrow(folder: Path, rows: Rows) -> Path:
    Dataset.from_list(rows).save_to_disk(folder / "rows")
    return folder / "rows"


def stream(folder: Path, rows: Rows) -> Rows:
    return rows


FORMATS: list[Callable[[Path, Rows], Any]] = [json_lines, parquet, arrow, stream]


def content(folder: Path) -> list[dict[str, Any]]:
    return list(load_from_disk(folder))


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("slim", [True, False])
def test_packed_rows_are_packed_again_by_their_documents(
    tmp_path: Path, make: Callable[[Path, Rows], Any], slim: bool
) -> None:
    documents = [[7 + 10 * n + at for at in range(n)] for n in (3, 2, 9, 1, 4, 4)]
    source = arrow(tmp_path, [{"input_ids": document} for document in documents])
    pack(source, tmp_path / "once", 9, slim=slim)
    (tmp_path / "again").mkdir()
    again = make(tmp_path / "again", content(tmp_path / "once"))
    report = pack(again, tmp_path / "twice", 12, slim=slim)
    assert report.tally.documents == len(documents)
    rows, at = content(tmp_path / "twice"), []
    for row in rows:
        ends = [sum(row["seq_lengths"][:n]) for n in range(1, len(row["seq_lengths"]) + 1)]
        at += [row["input_ids"][e - n : e] for e, n in zip(ends, row["seq_lengths"], strict=True)]
    assert sorted(at) == sorted(documents)
    assert max(map(len, (row["seq_lengths"] for row in rows))) > 1


IDS = [5, 6, 7, 8]
LOST = [
    ({"attention_mask": [1, 1, 1, 0]}, "attention_mask hides 1 tokens.*take padding out"),
    ({"completion_mask": [0, 0, 1, 1]}, "completion_mask hides 2 tokens.*give labels"),
    ({"assistant_masks": [0, 1, 1, 1]}, "assistant_masks hides 1 tokens"),
    ({"seq_lengths": [2, 1]}, "seq_lengths do not sum to its 4 tokens"),
    ({"seq_lengths": [5, -1]}, "seq_lengths do not sum to its 4 tokens"),
    ({"segment_ids": [0, 0, 1, 1]}, "packed, of 2 documents, and seq_lengths do not; give"),
    ({"segment_ids": [0, 1, 1, 1], "seq_lengths": [2, 2]}, "of 2 documents, and seq_lengths do"),
    ({"position_ids": [0, 1, 90, 91]}, "position_ids do not count"),
    ({"position_ids": [0, 1, 2, 3], "seq_lengths": [2, 2]}, "position_ids do not count"),
    ({"position_ids": [0, 1, 2]}, "position_ids do not count"),
]


@pytest.mark.parametrize("make", FORMATS)
def test_what_packing_would_lose_is_refused(
    tmp_path: Path, make: Callable[[Path, Rows], Any]
) -> None:
    for number, (columns, words) in enumerate(LOST):
        sound = {
            name: [1] * 4 if "mask" in name else [4] if name == "seq_lengths" else
            [0] * 4 if name == "segment_ids" else [0, 1, 2, 3] for name in columns
        }  # fmt: skip
        rows = [{"input_ids": IDS, **sound}, {"input_ids": IDS, **sound}]
        folder = tmp_path / str(number)
        folder.mkdir()
        assert pack(make(folder, rows), folder / "sound", 8).tally.documents == 2
        rows.append({"input_ids": IDS, **columns})
        source = make(folder, rows)
        with pytest.raises(ValueError, match=rf"(row 2|line 3).*{words}"):
            pack(source, folder / "refused", 8)
        assert not (folder / "refused" / "state.json").exists()
        report = pack(source, folder / "skipped", 8, skip_bad=True)
        assert (report.tally.documents, report.bad) == (2, 1)


@pytest.mark.parametrize("make", FORMATS)
def test_labels_say_what_a_mask_of_targets_says(
    tmp_path: Path, make: Callable[[Path, Rows], Any]
) -> None:
    row = {"input_ids": IDS, "labels": [-100, -100, 7, 8], "completion_mask": [0, 0, 1, 1]}
    pack(make(tmp_path, [row]), tmp_path / "out", 8)
    assert content(tmp_path / "out")[0]["labels"] == row["labels"]


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("label", [-1, -101, 50])
def test_labels_that_are_no_tokens(
    tmp_path: Path, make: Callable[[Path, Rows], Any], label: int
) -> None:
    rows = [{"input_ids": IDS, "labels": IDS}, {"input_ids": IDS, "labels": [-100, 6, label, 8]}]
    with pytest.raises(ValueError, match=rf"document 1 has the label {label}, .*, or -100"):
        pack(make(tmp_path, rows), tmp_path / "out", 8, vocabulary=50)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[" * 100_000, "line 2 is no JSON that can be read"),
        ('{"text": ' + "1" * 9_000 + "}", "line 2 is no JSON that can be read"),
        (r'{"text": "\ud800"}', "line 2: text has half of a surrogate pair"),
        ('{"text": {"a": 1}}', "line 2: text is dict; give text or a list of tokens"),
        ('{"input_ids": [[1]]}', r"line 2: input_ids has \[1\]; tokens are whole numbers"),
        ('{"input_ids": [1.5]}', "line 2: input_ids has 1.5"),
        ('{"input_ids": [%s]}' % ("9" * 200), "line 2: input_ids has 9{36} …; tokens"),
    ],
)
def test_lines_that_hold_no_document(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"text": "sound \u2028 \x85"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        pack(file, tmp_path / "out", 8, tokenizer="demo")
    assert pack(file, tmp_path / "out", 8, tokenizer="demo", skip_bad=True).tally.documents == 1


def test_offsets_that_point_elsewhere_are_not_followed(tmp_path: Path) -> None:
    """Arrow keeps no checksums: a damaged offset would be read, or end the process."""
    schema = pa.schema({"input_ids": pa.list_(pa.int32())})
    file = tmp_path / "rows.arrow"
    batch = pa.record_batch([pa.array([[1, 2], [3]], pa.list_(pa.int32()))], schema=schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    offsets = (0).to_bytes(4, "little") + (2).to_bytes(4, "little") + (3).to_bytes(4, "little")
    whole = file.read_bytes()
    assert whole.count(offsets) == 1
    file.write_bytes(whole.replace(offsets, offsets[:4] + b"\xff\xff\xff\x3f" + offsets[8:]))
    with pytest.raises(ValueError, match=r"rows\.arrow is damaged"):
        pack(file, tmp_path / "out", 8)


@pytest.mark.parametrize(
    "name", ["hub:", "hub::config", "hub: ", "hub:a b", "hub:../x", "hub:a/b/c"]
)
def test_hub_without_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="names no data set: write hub:NAME"):
        open_source(name, Reading())


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("dataset_dict.json", '{"splits": 3}', "lists 3 where names belong"),
        ("dataset_dict.json", '{"splits": [""]}', "where names belong"),
        ("dataset_dict.json", "{", "is damaged: JSONDecodeError"),
        ("state.json", '{"_data_files": 3}', "is damaged: TypeError"),
        ("state.json", "[]", "is damaged: TypeError"),
        ("state.json", '{"_data_files": [{}]}', "is damaged: KeyError"),
        ("state.json", '{"_data_files": [{"filename": "a.arrow"}]}', "names .*a.arrow, and there"),
    ],
)
def test_damaged_files_of_datasets(tmp_path: Path, file: str, content: str, words: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=words):
        open_source(tmp_path, Reading())


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"path": 3}', '{"sha256": "", "value": {}}'])
def test_damaged_records_of_a_packing_are_done_again(tmp_path: Path, damage: str) -> None:
    class Stop(Exception):
        pass

    def stop(name: str, done: int, total: int | None) -> None:
        if name == "packing" and done:
            raise Stop

    rows = [{"text": "word " * n} for n in range(1, 20)]
    source = json_lines(tmp_path, rows)
    pack(source, tmp_path / "whole", 32, tokenizer="demo")
    for room in ("tokens", "rows"):
        out = tmp_path / room
        with pytest.raises(Stop):
            pack(source, out, 32, tokenizer="demo", progress=stop)
        (record,) = (out / ".pack" / room).glob("*.json")
        record.write_text(damage)
        assert pack(source, out, 32, tokenizer="demo").resumed
        assert content(out) == content(tmp_path / "whole")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    lists = pa.array([[1, 2]])
    batch = pa.record_batch([lists, lists], names=["input_ids", "input_ids"])
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    with pytest.raises(ValueError, match="has 2 columns that are called input_ids"):
        pack(tmp_path / "a.arrow", tmp_path / "out", 8)


def test_damaged_corpora_are_packed_or_refused() -> None:
    place = Path(__file__).parents[2] / "fuzz" / "corpora.py"
    spec = importlib.util.spec_from_file_location("corpora", place)
    assert spec is not None and spec.loader is not None
    corpora = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpora)
    assert corpora.run(60, seed=0, say=lambda words: None) == []
