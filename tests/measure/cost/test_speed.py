import math

import pytest
import torch

import lengthwise as lw
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.measure.cost.speed import cache_bytes, reading_cost
from lengthwise.measure.engines.reading import read

CPU = torch.device("cpu")
MIB = 2**20


def test_peak_counts_what_is_alive():
    with PeakBytes(CPU) as peak:
        a = torch.empty(3 * MIB, dtype=torch.uint8)
        b = torch.empty(2 * MIB, dtype=torch.uint8)
        del a
        c = torch.empty(1 * MIB, dtype=torch.uint8)
    assert peak.bytes == 5 * MIB
    del b, c


def test_peak_goes_on_over_marks():
    with PeakBytes(CPU) as peak:
        kept = []
        for _ in range(4):
            kept.append(torch.empty(MIB, dtype=torch.uint8))
            peak.mark()
        kept.clear()
        peak.mark()
        kept.append(torch.empty(MIB, dtype=torch.uint8))
    assert peak.bytes == 4 * MIB


def test_peak_does_not_count_what_was_there():
    before = torch.empty(8 * MIB, dtype=torch.uint8)
    with PeakBytes(CPU) as peak:
        after = torch.empty(MIB, dtype=torch.uint8)
    assert peak.bytes == MIB
    del before, after


def test_peak_ends_with_an_error():
    with pytest.raises(ZeroDivisionError), PeakBytes(CPU):
        raise ZeroDivisionError
    with PeakBytes(CPU) as peak:  # counting was switched off properly
        pass
    assert peak.bytes == 0


def test_plain_cache_bytes(model, ids):
    with torch.no_grad():
        for _, cache in read(model, ids, chunk=64):
            pass
    heads, dim = 2, 8
    assert cache_bytes(cache) == math.prod((2, 2, 2, heads, 200, dim, 4))  # layers, k and v, rows


def test_cost_of_the_plain_model(model, ids):
    measured = reading_cost(model, ids[:1], steps=3, chunk=64)
    assert measured.cache_bytes == 2 * 2 * 2 * 203 * 8 * 4
    assert measured.first_token_seconds > 0 and measured.tokens_per_second > 0
    assert measured.peak_bytes is not None and measured.peak_bytes > measured.cache_bytes


def test_cost_of_an_adapted_model(model, ids):
    with lw.adapted(model, lw.StreamingLLM(sinks=2, window=30)):
        measured = reading_cost(model, ids[:1], steps=3, chunk=64)
        cache = lw.new_cache(model)
        with torch.no_grad():
            for part in (*ids[:1].split(64, dim=1), *[ids[:1, :1]] * 3):
                model(input_ids=part, past_key_values=cache, use_cache=True)
    assert measured.cache_bytes == cache.bytes()
    assert measured.peak_bytes is not None and measured.peak_bytes > measured.cache_bytes


def test_bad_input(model, ids):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        reading_cost(model, ids, steps=0)
    with pytest.raises(ValueError, match="no token to read"):
        reading_cost(model, ids[:, :0])
