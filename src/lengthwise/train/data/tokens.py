"""The first pass: parts of a corpus become Arrow files of tokens."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lengthwise.train.data.arrow import arrow_batches, arrow_schema, write_arrow
from lengthwise.train.data.parts import ArrowFile, Part
from lengthwise.train.data.reading import LABELS, TOKENS, Documents, Reading
from lengthwise.train.data.state import read_record, write_record

NAMED = 20  # bad documents that the report names
LISTS = pa.list_(pa.int32())
SCHEMA = pa.schema({TOKENS: LISTS, LABELS: LISTS})  # labels are null where there are none


@dataclass(kw_only=True)
class LeftOut:
    """What could not be read and was left out.

    Attributes:
        bad: How many.
        named: The first of them.
    """

    bad: int = 0
    named: list[str] = field(default_factory=list)

    def note(self, words: str) -> None:
        """Count something that cannot be read."""
        self.bad += 1
        if len(self.named) < NAMED:
            self.named.append(words)


@dataclass
class Shard(LeftOut):
    """A finished part.

    Attributes:
        path: An Arrow file of tokens: one of ours, or the source's own.
        column: The column that holds them.
        documents: Rows of the file, empty ones too.
    """

    path: str
    column: str
    documents: int


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, as this room needs it.

    Attributes:
        encode: Token lists of texts, with the special tokens that the tokenizer adds by itself.
        vocabulary: Tokens are below this number.
        end: The token that ends a document, or None.
    """

    encode: Callable[[list[str]], list[list[int]]]
    vocabulary: int
    end: int | None


@lru_cache(maxsize=1)  # a worker process reads many parts with one tokenizer
def load_encoder(name: str) -> Encoder:
    """The tokenizer of a checkpoint's directory, of a model on the hub, or of `demo`.

    Raises:
        ValueError: If there is none.
    """
    if name == "demo":  # a tokenizer.json says all; transformers would take seconds to load
        from tokenizers import Tokenizer

        folder = Path(str(files("lengthwise") / "assets" / "lab"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))

        def encode(texts: list[str]) -> list[list[int]]:
            return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]

        end = tokenizer.token_to_id(config["eos_token"])
        return Encoder(encode, tokenizer.get_vocab_size(), end)

    from lengthwise.hf.files import find_tokenizer
    from lengthwise.hf.loading import load_tokenizer

    loaded = load_tokenizer(find_tokenizer(name))

    def encode_any(texts: list[str]) -> list[list[int]]:
        # verbose=False: a document longer than the model's window is the point.
        return loaded(texts, return_attention_mask=False, verbose=False)["input_ids"]

    return Encoder(encode_any, len(loaded), loaded.eos_token_id)


@dataclass(frozen=True)
class Tokenise:
    """Turns the parts of a corpus into files of tokens, one file a part.

    Args:
        folder: Where the files go.
        reading: How parts are read.
        tokenizer: A name for `load_encoder`, or empty if documents are tokens already.
        end: Whether texts get the tokenizer's end token, if it has one and they lack it.
        skip_bad: Whether what cannot be read is left out and counted, and not an error.
    """

    folder: str
    reading: Reading
    tokenizer: str
    end: bool
    skip_bad: bool

    def __call__(self, task: tuple[int, Part]) -> Shard:
        """Read, encode and write one part; what is finished already is not done again.

        Raises:
            ValueError: For documents that cannot be read, unless they are to be skipped; for
                texts without a tokenizer.
            OSError: When the disk is full.
        """
        number, part = task
        record = Path(self.folder) / f"{number:06d}.json"
        saved = read_record(record)
        if saved is not None:
            finished = Shard(**saved)
            if self.skip_bad or not finished.bad:
                return finished
        path = record.with_suffix(".arrow")
        if isinstance(part, ArrowFile):
            column = self.reading.column_of(arrow_schema(part.path).names, part.path)
            rows = sum(batch.num_rows for batch in arrow_batches(part.path))
            shard = Shard(part.path, column, rows)
        else:
            shard = Shard(str(path), TOKENS, 0)
            bad = shard.note if self.skip_bad else _refuse
            batches = (self._batch(documents) for documents in part.read(self.reading, bad))

            def counted() -> Any:
                for batch in batches:
                    shard.documents += batch.num_rows
                    yield batch

            write_arrow(path, SCHEMA, counted())
        write_record(record, asdict(shard))
        return shard

    def _batch(self, documents: Documents) -> pa.RecordBatch:
        if isinstance(documents, list):
            ids = _lists(self._encode(documents))
            labels = pa.nulls(len(ids), LISTS)
        else:
            ids = documents.column(TOKENS)
            labelled = LABELS in documents.schema.names
            labels = documents.column(LABELS) if labelled else pa.nulls(len(ids), LISTS)
        return pa.record_batch([ids, labels], schema=SCHEMA)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if texts and not self.tokenizer:
            raise ValueError("the documents are text; name a tokenizer, as in --tokenizer demo")
        sound = [text for text in texts if text]
        if not sound:
            return [[] for _ in texts]
        encoder = load_encoder(self.tokenizer)
        encoded = iter(encoder.encode(sound))
        lists = [next(encoded) if text else [] for text in texts]
        if self.end and encoder.end is not None:
            for ids in lists:
                if ids and ids[-1] != encoder.end:
                    ids.append(encoder.end)
        return lists


def _refuse(words: str) -> None:
    raise ValueError(f"{words}; repair it, or leave such documents out with --skip-bad")


def _lists(lists: list[list[int]]) -> pa.ListArray:
    offsets = np.zeros(len(lists) + 1, dtype=np.int32)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
