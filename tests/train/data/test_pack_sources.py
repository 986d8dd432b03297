"""Every kind of source gives every document, and says which one it cannot read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, load_from_disk

from lengthwise.testing.models import tiny_tokenizer
from lengthwise.train.data.parts import ArrowFile, ArrowRows
from lengthwise.train.data.pipeline import Sizes, pack
from lengthwise.train.data.reading import Reading
from lengthwise.train.data.tokens import load_encoder

TEXTS = [f"Document {i} says {'so ' * (i % 7)}and ends at {i * i}." for i in range(40)]
TEXTS[11] = ""
TEXTS[23] = "Größe, 長さ, длина — ünïcode\u2028stays one line"
TINY = Sizes(part_bytes=150, block_tokens=300, block_documents=9, file_tokens=200)


def packed_texts(folder: Path) -> list[str]:
    """The documents in all rows, decoded."""
    from transformers import AutoTokenizer

    from lengthwise.cli.inputs import be_quiet

    be_quiet()
    assets = Path(__file__).parents[3] / "src" / "lengthwise" / "assets" / "lab"
    tokenizer = AutoTokenizer.from_pretrained(assets)
    texts = []
    for row in load_from_disk(folder):
        at = 0
        for length in row["seq_lengths"]:
            ids = row["input_ids"][at : at + length]
            assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
            texts.append(tokenizer.decode(ids, skip_special_tokens=True))
            at += length
    return texts


def json_lines(folder: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"text": t, "n": i}, ensure_ascii=False) for i, t in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return folder / "corpus.jsonl"


def lines(folder: Path, texts: list[str]) -> Path:
    (folder / "corpus.txt").write_bytes("\n".join(texts).encode())  # the last line has no end
    return folder / "corpus.txt"


def parquet(folder: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"text": texts}), folder / "corpus.parquet", row_group_size=7)
    return folder / "corpus.parquet"


def arrow_file(folder: Path, texts: list[str]) -> Path:
    table = pa.table({"text": texts})
    with pa.ipc.new_file(str(folder / "corpus.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    return folder / "corpus.arrow"


def saved_dataset(folder: Path, texts: list[str]) -> Path:
    Dataset.from_dict({"text": texts}).save_to_disk(folder / "saved", num_shards=3)
    return folder / "saved"


def folder_of_files(folder: Path, texts: list[str]) -> Path:
    (folder / "tree" / "deep").mkdir(parents=True)
    (folder / "tree" / ".hidden").mkdir()
    (folder / "tree" / ".hidden" / "not.txt").write_text("hidden")
    for i, text in enumerate(texts[:20]):
        (folder / "tree" / ("deep" if i % 3 else ".") / f"{i}.txt").write_bytes(text.encode())
    parquet(folder / "tree", texts[20:30])
    json_lines(folder / "tree" / "deep", texts[30:])
    return folder / "tree"


def stream(folder: Path, texts: list[str]) -> Any:
    return IterableDataset.from_generator(lambda: ({"text": text} for text in texts))


def in_memory(folder: Path, texts: list[str]) -> Any:
    return Dataset.from_dict({"text": texts})


def mapped(folder: Path, texts: list[str]) -> Any:
    return load_from_disk(saved_dataset(folder, texts))


def selected(folder: Path, texts: list[str]) -> Any:
    both = load_from_disk(saved_dataset(folder, ["no", *reversed(texts), "no"]))
    return both.select(range(len(texts), 0, -1))


def sliced(folder: Path, texts: list[str]) -> Any:
    return load_from_disk(saved_dataset(folder, ["no", *texts, "no"])).select(
        range(1, len(texts) + 1)
    )


def renamed(folder: Path, texts: list[str]) -> Any:
    columns = {"text": ["no"] * len(texts), "words": texts}
    Dataset.from_dict(columns).save_to_disk(folder / "two")
    return load_from_disk(folder / "two").remove_columns("text").rename_column("words", "text")


SOURCES = [
    json_lines, lines, parquet, arrow_file, saved_dataset, folder_of_files, stream, in_memory,
    mapped, selected, sliced, renamed,
]  # fmt: skip


@pytest.mark.parametrize("make", SOURCES)
def test_every_document_of_every_source(
    tmp_path: Path, make: Callable[[Path, list[str]], Any]
) -> None:
    source = make(tmp_path, TEXTS)
    unit = "line" if make is lines else "file"
    report = pack(source, tmp_path / "out", 300, tokenizer="demo", document=unit, sizes=TINY)
    assert sorted(packed_texts(tmp_path / "out")) == sorted(t for t in TEXTS if t)
    assert (report.tally.documents, report.tally.empty, report.bad) == (40, 1, 0)


@pytest.mark.parametrize("make", [json_lines, lines])
@pytest.mark.parametrize("part_bytes", [1, 2, 7, 64, 1 << 20])
def test_lines_are_cut_into_parts_anywhere(
    tmp_path: Path, make: Callable[[Path, list[str]], Path], part_bytes: int
) -> None:
    source = make(tmp_path, TEXTS[:6])
    sizes = Sizes(part_bytes=part_bytes)
    pack(source, tmp_path / "out", 300, tokenizer="demo", document="line", sizes=sizes)
    assert sorted(packed_texts(tmp_path / "out")) == sorted(TEXTS[:6])


def test_a_whole_file_is_one_document(tmp_path: Path) -> None:
    lines(tmp_path, TEXTS)
    pack(tmp_path / "corpus.txt", tmp_path / "out", 4096, tokenizer="demo")
    assert packed_texts(tmp_path / "out") == ["\n".join(TEXTS)]


def test_processes_write_what_one_process_writes(tmp_path: Path) -> None:
    source = json_lines(tmp_path, TEXTS)
    for workers in (1, 2):
        out = tmp_path / str(workers)
        pack(source, out, 300, tokenizer="demo", workers=workers, sizes=TINY)
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / w).glob("*.arrow")} for w in "12")
    assert one == two and len(one) > 3


def test_tokens_in_json_lines_and_parquet(tmp_path: Path) -> None:
    rows = [{"ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"ids": [8, 9], "labels": [8, -100]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        pack(tmp_path / name, tmp_path / f"{name}.out", 5, column="ids")
        row = load_from_disk(tmp_path / f"{name}.out")[0]
        assert row["input_ids"] == [5, 6, 7, 8, 9]
        assert row["labels"] == [-100, 6, 7, -100, -100]
        assert row["loss_weights"] == [0, 0.5, 0.5, 0, 0]


def test_documents_with_and_without_labels(tmp_path: Path) -> None:
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3, 4], "labels": [3, -100]},
            {"input_ids": [5, 6]}]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pack(tmp_path / "a.jsonl", tmp_path / "out", 6)
    assert load_from_disk(tmp_path / "out")[0]["labels"] == [-100, 2, -100, -100, -100, 6]


@pytest.mark.parametrize("end", [True, False])
def test_tokenizers_of_transformers(tmp_path: Path, end: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = json_lines(tmp_path, TEXTS[:3])
    pack(source, tmp_path / "object", 300, tokenizer=tokenizer, end=end)
    pack(source, tmp_path / "path", 300, tokenizer=str(tmp_path / "tokenizer"), end=end)
    one, two = (load_from_disk(tmp_path / name)[:] for name in ("object", "path"))
    assert one == two
    plain = [tokenizer(text)["input_ids"] for text in TEXTS[:3]]
    ends = [tokenizer.eos_token_id] if end else []
    assert one["input_ids"] == [[token for ids in plain for token in [*ids, *ends]]]


def test_the_bundled_tokenizer_is_the_one_that_transformers_loads() -> None:
    from transformers import AutoTokenizer

    assets = Path(__file__).parents[3] / "src" / "lengthwise" / "assets" / "lab"
    theirs, ours = AutoTokenizer.from_pretrained(assets), load_encoder("demo")
    texts = [*TEXTS, "  spaces  ", "\n\n", "<s>x</s>"]
    assert ours.encode(texts) == theirs(texts)["input_ids"]
    assert (ours.vocabulary, ours.end) == (len(theirs), theirs.eos_token_id)


def test_a_stream_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*words: Any, **settings: Any) -> Any:
        asked.append((words, settings))
        return stream(tmp_path, TEXTS[:4])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    pack("hub:some/corpus:en", tmp_path / "out", 300, tokenizer="demo")
    settings = {"split": "train", "streaming": True, "trust_remote_code": False}
    assert asked == [(("some/corpus", "en"), settings)]
    assert sorted(packed_texts(tmp_path / "out")) == sorted(TEXTS[:4])


def corrupt_line(folder: Path) -> Path:
    (folder / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "tw\n{"text": "three"}\n')
    return folder / "a.jsonl"


def wrong_bytes(folder: Path) -> Path:
    (folder / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "\xff"}\n{"text": "three"}\n')
    return folder / "a.jsonl"


def no_object(folder: Path) -> Path:
    (folder / "a.jsonl").write_text('{"text": "one"}\n[1, 2]\n{"text": "three"}\n')
    return folder / "a.jsonl"


def no_text(folder: Path) -> Path:
    (folder / "a.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"text": "three"}\n')
    return folder / "a.jsonl"


def fractions(folder: Path) -> Path:
    (folder / "a.jsonl").write_text('{"text": "one"}\n{"input_ids": [1, 2.5]}\n{"text": "three"}\n')
    return folder / "a.jsonl"


def true_is_no_token(folder: Path) -> Path:
    (folder / "a.jsonl").write_text(
        '{"text": "one"}\n{"input_ids": [1, true]}\n{"text": "three"}\n'
    )
    return folder / "a.jsonl"


def damaged_footer(folder: Path) -> Path:
    (folder / "in").mkdir()
    parquet(folder / "in", ["one", "three"])
    (folder / "in" / "b.parquet").write_bytes(parquet(folder, ["two"] * 9).read_bytes()[:-3])
    return folder / "in"


def damaged_pages(folder: Path) -> Path:
    (folder / "in").mkdir()
    pq.write_table(pa.table({"text": ["one", "three"]}), folder / "in" / "a.parquet")
    whole = bytearray(parquet(folder, [f"two {i}" for i in range(200)]).read_bytes())
    whole[4:60] = b"\xff" * 56  # the first row group, behind the magic number
    (folder / "in" / "b.parquet").write_bytes(whole)
    return folder / "in"


def null_row(folder: Path) -> Path:
    pq.write_table(pa.table({"text": ["one", None, "three"]}), folder / "a.parquet")
    return folder / "a.parquet"


def binary(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / "1.txt").write_text("one")
    (folder / "in" / "2.bin").write_bytes(b"tw\0o")
    (folder / "in" / "3.txt").write_text("three")
    return folder / "in"


def latin(folder: Path) -> Path:
    binary(folder)
    (folder / "in" / "2.bin").write_bytes("zwölf".encode("latin-1"))
    return folder / "in"


BAD = [
    (corrupt_line, r"a\.jsonl, line 3 is not JSON: Unterminated string"),
    (wrong_bytes, r"a\.jsonl, line 2 is not UTF-8: 0xff"),
    (no_object, r"a\.jsonl, line 2 is no object with columns, but a list"),
    (no_text, r"a\.jsonl, line 2: text is NoneType; give text or a list of tokens"),
    (fractions, r"a\.jsonl, line 2: input_ids has 2\.5; tokens are whole numbers"),
    (true_is_no_token, r"a\.jsonl, line 2: input_ids has True; tokens are whole numbers"),
    (damaged_footer, r"b\.parquet is no Parquet file, or damaged"),
    (null_row, r"a\.parquet, row 1: text is null"),
    (binary, r"2\.bin is binary, not text: byte 2 is NUL"),
    (latin, r"2\.bin is not UTF-8: byte 2 is 0xf6"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_what_cannot_be_read_is_named_and_skipped_only_when_asked(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    source = make(tmp_path)
    with pytest.raises(ValueError, match=words + ".*--skip-bad"):
        pack(source, tmp_path / "out", 300, tokenizer="demo")
    report = pack(source, tmp_path / "out", 300, tokenizer="demo", skip_bad=True)
    assert sorted(packed_texts(tmp_path / "out")) == ["one", "three"]
    assert report.bad == 1 and report.named[0] in report.text()


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    source = damaged_pages(tmp_path)
    with pytest.raises(ValueError, match=r"b\.parquet, row group 0, is damaged"):
        pack(source, tmp_path / "out", 300, tokenizer="demo")
    report = pack(source, tmp_path / "out", 300, tokenizer="demo", skip_bad=True)
    found = packed_texts(tmp_path / "out")
    assert sorted(found) == sorted(["one", "three", *(f"two {i}" for i in range(7, 200))])
    assert report.bad == 1


def test_a_line_number_far_into_a_file(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{i}" * 40}) for i in range(5000)]
    rows[4321] = "{"
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"line 4,322 is not JSON"):
        pack(tmp_path / "a.jsonl", tmp_path / "o", 99, tokenizer="demo", sizes=Sizes(10_000))


def test_an_output_within_the_source(tmp_path: Path) -> None:
    source = folder_of_files(tmp_path, TEXTS)
    with pytest.raises(ValueError, match=r"lies in .* and would be packed as well"):
        pack(source, source / "deep" / "out", 300, tokenizer="demo")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f / "nothing", "there is no file or directory .*; write hub:"),
        (lambda f: (f / "empty").mkdir() or f / "empty", "is a directory without files"),
        (lambda f: 5, "cannot read documents from int"),
        (lambda f: corrupt_arrow(f), r"a\.arrow is no Arrow file"),
        (lambda f: json_lines(f, TEXTS), "the documents are text; name a tokenizer"),
        (lambda f: Dataset.from_dict({"text": [1, 2]}), "text holds int64; it must be text"),
        (lambda f: Dataset.from_dict({"words": ["a"]}), "has no input_ids and no text, only words"),
        (lambda f: splits(f), "holds the splits train, test; name one, such as .*train"),
    ],
)
def test_no_such_source(tmp_path: Path, make: Callable[[Path], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack(make(tmp_path), tmp_path / "out", 300)
    assert not (tmp_path / "out").exists()


def test_no_such_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load a tokenizer from "):
        pack(json_lines(tmp_path, TEXTS), tmp_path / "out", 300, tokenizer=str(tmp_path / "none"))


def corrupt_arrow(folder: Path) -> Path:
    (folder / "a.arrow").write_bytes(b"no arrow at all" * 20)
    return folder / "a.arrow"


def splits(folder: Path) -> Path:
    one = Dataset.from_dict({"text": ["a"]})
    DatasetDict({"train": one, "test": one}).save_to_disk(folder / "both")
    return folder / "both"


def test_a_whole_arrow_file_reads_like_its_rows(tmp_path: Path) -> None:
    path = str(arrow_file(tmp_path, [f"text {i}" for i in range(40)]))
    whole = [text for some in ArrowFile(path).read(Reading(), pytest.fail) for text in some]
    rows = [ArrowRows(path, low, low + 20).read(Reading(), pytest.fail) for low in (0, 20)]
    assert whole == [text for part in rows for some in part for text in some]
    assert len(whole) == 40
