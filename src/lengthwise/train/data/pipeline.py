"""Corpora of any size to rows of tokens: every document exactly once, whatever happens."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lengthwise.files import hold, write_text
from lengthwise.train.data import state
from lengthwise.train.data.documents import OVERFLOW, blocks
from lengthwise.train.data.packers import PACKERS
from lengthwise.train.data.parallel import each
from lengthwise.train.data.reading import Reading
from lengthwise.train.data.report import Report
from lengthwise.train.data.rows import Pack, Packing
from lengthwise.train.data.sources import open_source
from lengthwise.train.data.tokens import Tokenise, load_encoder

FORMAT = 1
# Told how far a pass is: its name, finished tasks, and all tasks or None where nobody knows.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Sizes:
    """How much is done at a time: what memory and lost work after a kill are bounded by.

    Args:
        part_bytes: Of a file that is tokenised in one go.
        block_tokens, block_documents: Packed together, at most; a block is held in memory.
        file_tokens: Of a file that is written.
    """

    part_bytes: int = 8 << 20
    block_tokens: int = 1 << 26
    block_documents: int = 1 << 20
    file_tokens: int = 1 << 23


def pack(
    source: Any,
    output: str | os.PathLike[str],
    capacity: int,
    *,
    tokenizer: str | Any = "",
    column: str = "",
    document: str = "file",
    overflow: str = "split",
    packer: str = "best_fit",
    vocabulary: int = 0,
    end: bool = True,
    seed: int = 0,
    slim: bool = False,
    mask: bool = False,
    skip_bad: bool = False,
    workers: int = 1,
    ray: bool = False,
    force: bool = False,
    sizes: Sizes | None = None,
    progress: Progress | None = None,
) -> Report:
    """Pack a corpus into a directory that `datasets.load_from_disk` reads.

    Texts are tokenised, part by part; then blocks of documents are assigned to rows and written.
    Both passes note every finished piece in the directory, so that the same call after a kill
    goes on from there. What is written depends on the arguments and the corpus alone, not on
    workers, Ray or interruptions.

    Rows have `input_ids`, `labels` (-100 for the first token of a document, which nothing
    predicts), `position_ids` (from 0 in every document), `segment_ids` (0, 1, 2 …),
    `loss_weights` (1 / targets of the document; see `sequence_loss_weights`) and `seq_lengths`.
    Rows are not padded.

    Args:
        source: A path, `hub:NAME`, or an object of `datasets`; see `open_source`.
        output: A directory that does not exist, is empty, or was interrupted.
        capacity: Tokens of a row at most, at least 2.
        tokenizer: A checkpoint's directory, a name on the hub, `demo`, or a tokenizer of
            transformers; not needed for documents that are lists of tokens.
        column: Of the documents; by default `input_ids` where there is one, else `text`.
        document: In plain text, what a document is: the `file` or a `line`.
        overflow: For longer documents: `split`, `truncate`, `drop` or `raise`.
        packer: A name in `PACKERS`.
        vocabulary: Tokens must be below it; by default the tokenizer's, if there is one.
        end: Whether texts get the tokenizer's end token.
        seed: Of the order of the rows.
        slim: Leave out the columns that collators can make from `seq_lengths`.
        mask: Add an `attention_mask` of ones, by which axolotl tells that rows are tokenised.
        skip_bad: Leave out lines, rows and files that cannot be read, and count them.
        workers: Processes.
        ray: Work on Ray Data; the source and the output must be on a disk that all machines see.
        force: Replace a packing that is there.
        sizes: How much is done at a time.
        progress: Called after every finished task.

    Raises:
        ValueError: For arguments out of range, a corpus without documents, documents that cannot
            be read, or an output that must not be replaced.
        OSError: When the disk is full; free some space and call again.
    """
    sizes = sizes or Sizes()
    _check(capacity, overflow, packer, workers, vocabulary, sizes)
    reading = Reading(column, document, sizes.part_bytes)
    packing = Packing(capacity, overflow, packer, seed, slim, mask)
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a directory")
    if isinstance(source, (str, Path)) and Path(source).resolve() in folder.resolve().parents:
        raise ValueError(f"{folder} lies in {source} and would be packed as well; choose another")
    corpus = open_source(source, reading)
    if ray and corpus.parts is None:
        raise ValueError(f"ray reads files, and {corpus.name} is a stream; save it first")
    tokens = {
        "format": FORMAT, "source": corpus.name, "files": corpus.identity, "column": column,
        "tokenizer": _identity(tokenizer), "document": document, "end": end,
        "part_bytes": sizes.part_bytes,
    }  # fmt: skip
    rows = {**asdict(packing), **asdict(sizes), "vocabulary": vocabulary}
    plan = {"tokens": tokens, "rows": rows}
    run = _Run(workers, ray, progress or (lambda *_: None))
    with hold(folder):
        began = time.perf_counter()
        try:
            resumed = state.begin(folder, plan, force)
            work = folder / state.WORK
            name = _saved(tokenizer, work)
            tokenise = Tokenise(str(work / "tokens"), reading, name, end, skip_bad)
            total = None if corpus.parts is None else len(corpus.parts)
            shards = run.all("tokenising", tokenise, enumerate(corpus.each()), total)
            if not any(shard.documents for shard in shards):
                raise ValueError(f"{corpus.name} holds no documents; there is nothing to pack")
            limit = vocabulary or (load_encoder(name).vocabulary if name else 0)
            todo = list(blocks(shards, sizes.block_tokens, sizes.block_documents))
            write_rows = Pack(
                str(folder), str(work / "rows"), packing, limit, skip_bad, sizes.file_tokens,
                threads=max(1, workers // max(1, len(todo))),
            )  # fmt: skip
            done = run.all("packing", write_rows, todo, len(todo))
            report = Report.of(corpus.name, packing, shards, done, resumed)
            report.check()
        except BaseException:
            state.abandon(folder)
            raise
        report.seconds = time.perf_counter() - began
        write_text(folder / "report.txt", report.text())
        write_text(folder / "report.html", report.html())
        fingerprint = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:16]
        files = [file for block in done for file in block.files]
        state.finish(folder, files, {"fingerprint": fingerprint, "plan": plan, **asdict(report)})
    return report


def _identity(tokenizer: Any) -> str:
    """What changes when the tokenizer does."""
    if not isinstance(tokenizer, str):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        words = sorted(tokenizer.get_vocab().items())
        text = backend.to_str() if backend is not None else str(words)
        return f"{type(tokenizer).__name__} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    saved = Path(tokenizer) / "tokenizer.json"
    if tokenizer == "demo" or not saved.is_file():
        return tokenizer
    return f"{tokenizer} {hashlib.sha256(saved.read_bytes()).hexdigest()[:16]}"


def _saved(tokenizer: Any, work: Path) -> str:
    """A name by which every worker can load it."""
    if isinstance(tokenizer, str):
        return tokenizer
    folder = work / "tokenizer"
    tokenizer.save_pretrained(folder)
    return str(folder.resolve())


@dataclass(frozen=True)
class _Run:
    workers: int
    ray: bool
    progress: Progress

    def all(self, name: str, function: Any, tasks: Any, total: int | None) -> list[Any]:
        """Do every task, in as many processes as there is work for."""
        workers = self.workers if total is None else max(1, min(self.workers, total))
        done: list[Any] = []
        self.progress(name, 0, total)
        for result in each(function, tasks, workers, self.ray):
            done.append(result)
            self.progress(name, len(done), total)
        return done


def _check(
    capacity: int, overflow: str, packer: str, workers: int, vocabulary: int, sizes: Sizes
) -> None:
    if capacity < 2:
        raise ValueError(
            f"capacity must be at least 2 tokens, got {capacity}: a row of one has nothing to learn"
        )
    if overflow not in OVERFLOW:
        raise ValueError(f"overflow must be one of {', '.join(OVERFLOW)}, got {overflow!r}")
    if packer not in PACKERS:
        raise ValueError(f"packer must be one of {', '.join(PACKERS)}, got {packer!r}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if vocabulary < 0:
        raise ValueError(f"vocabulary must be at least 1, or 0 for unknown, got {vocabulary}")
    for name, size in asdict(sizes).items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
