"""The rows of a suite as a table in Parquet, for those who go on with them elsewhere."""

import json
from pathlib import Path

from lengthwise.files import whole_file
from lengthwise.measure.run.results import Results

PARQUET = "results.parquet"


def write_parquet(results: Results, folder: Path) -> Path:
    """Write one row an item; the plan and the sessions are JSON in the table's metadata.

    Raises:
        ValueError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(
            "writing Parquet needs pyarrow: pip install pyarrow; the JSON lines are complete "
            "without it"
        ) from None
    kinds = {
        "method": pa.string(),
        "task": pa.string(),
        "length": pa.int64(),
        "index": pa.int64(),
        "score": pa.float64(),
        "chance": pa.float64(),
        "depths": pa.list_(pa.float64()),
        "prompt": pa.string(),
        "answer": pa.string(),
        "reply": pa.string(),
        "tokens": pa.int64(),
        "first_token": pa.float64(),
        "seconds": pa.float64(),
        "held": pa.int64(),
        "peak": pa.int64(),
        "refused": pa.string(),
        "session": pa.int64(),
        "again": pa.bool_(),
        "groups": pa.map_(pa.string(), pa.string()),
        "characters": pa.int64(),
        "shortcuts": pa.map_(pa.string(), pa.float64()),
        "parts": pa.map_(pa.string(), pa.float64()),
        "found": pa.list_(pa.float64()),
        "read": pa.int64(),
    }
    about = {
        "lengthwise_plan": json.dumps(results.plan, ensure_ascii=False),
        "lengthwise_sessions": json.dumps(results.sessions, ensure_ascii=False),
    }
    maps = ("groups", "shortcuts", "parts")
    rows = [
        {**vars(row), **{key: list(getattr(row, key).items()) for key in maps}}
        for row in results.rows
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema(kinds.items(), metadata=about))
    path = folder / PARQUET
    with whole_file(path) as fresh:
        pq.write_table(table, fresh)
    return path
