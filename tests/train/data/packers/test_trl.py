"""Best fit against TRL's: the same bins at once, and never more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.packers import best_fit

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


def trl_bins(lengths: list[int], capacity: int, **map_kwargs) -> int:
    ids = datasets.Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    datasets.disable_progress_bars()
    return len(trl.pack_dataset(ids, capacity, strategy="bfd", map_kwargs=map_kwargs))


@given(lengths=st.lists(st.integers(1, 48), min_size=1, max_size=200), capacity=st.integers(48, 64))
@settings(max_examples=8, deadline=None)
def test_as_many_bins_as_trl_over_the_full_set(lengths, capacity) -> None:
    ours = len(best_fit(lengths, capacity))
    assert ours == trl_bins(lengths, capacity, batch_size=len(lengths))


def test_fewer_bins_than_trl_as_its_trainer_calls_it() -> None:
    """SFTTrainer names no batch size, so no bin of TRL's spans more than 1,000 documents."""
    lengths = [300] * 1000 + [200] * 1000  # each long document has room for one short one
    assert len(best_fit(lengths, 512)) == 1000
    assert trl_bins(lengths, 512) == 1500
