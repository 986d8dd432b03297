"""Best fit on real documents: files of the standard library, under the bundled tokenizer."""

from pathlib import Path

from tokenizers import Tokenizer

import lengthwise
from lengthwise.measure.tasks.text import read_text, standard_library_files
from lengthwise.train.data.packers import best_fit

TOKENIZER = Path(lengthwise.__file__).parent / "assets" / "lab" / "tokenizer.json"


def test_utilisation_is_at_least_99_percent_at_2048() -> None:
    texts = [read_text(path) for path in standard_library_files(held_out=False)[::12]]
    encodings = Tokenizer.from_file(str(TOKENIZER)).encode_batch([text for text in texts if text])
    documents = [len(encoding.ids) for encoding in encodings]
    pieces = [min(2048, length - start) for length in documents for start in range(0, length, 2048)]
    bins = best_fit(pieces, 2048)
    assert sum(pieces) == sum(documents)
    assert sum(documents) / (2048 * len(bins)) >= 0.99
