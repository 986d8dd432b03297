"""The releases of transformers that are known, and the two names of the cache."""

import tomllib
import warnings
from inspect import signature
from pathlib import Path

import pytest
import torch
import transformers
from packaging.requirements import Requirement

import lengthwise as lw
from lengthwise.hf.release import CACHE, KNOWN, NAMES, cache_of, refuse_unknown_release, take_cache
from lengthwise.testing.models import tiny_model

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
IDS = torch.arange(3, 15)[None]


def test_the_name_is_that_of_every_forward():
    for family in ("llama", "gemma3_text", "gpt_neox"):
        model = tiny_model(family)
        for module in (model, model.base_model):
            names = set(signature(module.forward).parameters)
            assert CACHE in names and not names & ({*NAMES} - {CACHE})


def test_an_adapted_model_takes_either_name_without_a_warning_of_ours():
    model = lw.adapt(tiny_model("llama").double())
    with torch.no_grad():
        want = model(IDS, use_cache=False).logits[:, 8:]
        for name in NAMES:
            cache = lw.new_cache(model)
            with warnings.catch_warnings():
                warnings.simplefilter("error" if name == CACHE else "default")
                first = model(IDS[:, :8], **{name: cache})
                got = model(IDS[:, 8:], **{name: cache_of(first)}).logits
            torch.testing.assert_close(got, want)
            answers = model.generate(IDS, max_new_tokens=3, **{name: lw.new_cache(model)})
            assert answers.shape == (1, 15)
    with pytest.raises(ValueError, match="two caches"):
        model.base_model(IDS, past_key_values=lw.new_cache(model), cache=lw.new_cache(model))


def test_an_unknown_release_is_named():
    for version in ("5.22.4", "5.25.0", "6.0.0.dev0", "4.57.6"):
        with pytest.raises(ValueError, match=f"transformers {version} is not known.*pip install"):
            refuse_unknown_release(version)
    for version in ("5.23.0", "5.24.0", "5.24.1.dev3", transformers.__version__):
        refuse_unknown_release(version)


def test_the_range_that_pip_reads_is_the_releases_that_are_known():
    needs = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["dependencies"]
    (one,) = (need for line in needs if (need := Requirement(line)).name == "transformers")
    major, newest = KNOWN[-1].split(".")
    after = f"{major}.{int(newest) + 1}.0"
    assert all(f"{release}.0" in one.specifier for release in KNOWN)
    assert after not in one.specifier and "5.22.2" not in one.specifier


def test_a_cache_is_taken_once():
    assert take_cache({"use_cache": True}) is None
    assert take_cache({"cache": None, "past_key_values": 5}) == 5
