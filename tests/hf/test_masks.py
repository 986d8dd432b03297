"""Masks and positions of every kind mean what they mean to transformers, or are refused."""

import pytest
import torch

import lengthwise as lw
from lengthwise.hf.release import CACHE
from lengthwise.testing.models import KINDS, VOCABULARY, tiny_model

LENGTH = 30  # beyond the windows of 16, short of Phi-3's border when a few more are generated
METHODS = (
    lw.DynamicNTK(),
    lw.SelfExtend(group=4, window=16),
    lw.StreamingLLM(sinks=2, window=12),
    lw.InfLLM(pages=2, page_size=4, sinks=2, window=12),
)


def tokens(rows, length=LENGTH, seed=1):
    return torch.randint(
        3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed)
    )


def masked(low, high):
    """Two rows, the second without the columns low .. high - 1."""
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, low:high] = 0
    return mask


COLUMNS = torch.arange(LENGTH)[None]
GAP = torch.cat([torch.arange(20), torch.arange(20, LENGTH) + 5])[None].expand(2, -1)
LEFT, HOLE, RIGHT = masked(0, 4), masked(20, 23), masked(26, LENGTH)
PROMPTS = {
    "a hole": {"attention_mask": HOLE},
    "a hole that counts": {"attention_mask": HOLE, "position_ids": COLUMNS.expand(2, -1)},
    "padding on the right": {"attention_mask": RIGHT},
    "padding on the right that counts": {
        "attention_mask": RIGHT,
        "position_ids": COLUMNS.expand(2, -1),
    },
    "padding on the left that counts": {
        "attention_mask": LEFT,
        "position_ids": COLUMNS.expand(2, -1),
    },
    "a gap": {"position_ids": GAP},
    "a gap and padding": {"attention_mask": LEFT, "position_ids": GAP},
    "a gap and a hole": {"attention_mask": HOLE, "position_ids": GAP},
    "positions from 5 on": {"position_ids": COLUMNS + 5},
}
FORWARDS = [name for name in PROMPTS if name != "a hole"]


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", KINDS)
@torch.no_grad()
def test_prompts_of_the_untouched_model(family):
    model, ids = tiny_model(family, eos_token_id=None), tokens(2)

    def generated(name, cached):
        how = {"max_new_tokens": 4, "do_sample": False, "use_cache": cached}
        try:
            return model.generate(ids, **how, **PROMPTS[name])
        except ValueError as error:
            return str(error)

    def read(name):
        given = PROMPTS[name]
        out = model(ids, **given).logits
        real = given.get("attention_mask", torch.ones_like(ids)).bool()
        # Behind a token even padding asks, unless frequencies move; in front nothing is seen.
        return out[real if family == "phi3" else real.cumsum(1) > 0]

    cases = [(name, cached) for name in PROMPTS for cached in (True, False)]
    before = {case: generated(*case) for case in cases}
    logits = {name: read(name) for name in FORWARDS}
    lw.adapt(model)
    moving = family == "phi3"
    for (name, cached), expected in before.items():
        got = generated(name, cached)
        if moving and "on the right" in name:
            assert "pad rows on the left" in got
        elif name == "a gap" and not cached:  # there, transformers takes it for a document
            assert "leave use_cache on" in got
        else:
            assert torch.equal(got, expected), (name, cached)
    for name in FORWARDS:
        if not (moving and "on the right" in name):
            torch.testing.assert_close(read(name), logits[name], atol=1e-5, rtol=0, msg=name)
    message = refusal(lambda: model(ids, attention_mask=HOLE))
    assert message.startswith("attention_mask hides token 20 of row 1 between others")


@torch.no_grad()
def test_chunks_with_gaps_and_holes():
    """What a cache has seen of a gap, a hole or padding on the right holds for what follows."""
    ids = tokens(2)
    for family in KINDS:
        model = lw.adapt(tiny_model(family))
        for name in FORWARDS:
            given = PROMPTS[name]
            if family == "phi3" and "that counts" not in name:
                continue  # positions cross the border of its frequencies
            whole, cache, done, out = model(ids, **given).logits, lw.new_cache(model), 0, []
            for stop in (9, 10, 21, 22, LENGTH):
                here = {k: v[:, done:stop] if "ids" in k else v[:, :stop] for k, v in given.items()}
                out.append(model(ids[:, done:stop], **here, **{CACHE: cache}).logits)
                done = stop
            real = given.get("attention_mask", torch.ones_like(ids))
            real = real.bool() if family == "phi3" else real.cumsum(1) > 0  # as above
            got = torch.cat(out, 1)
            torch.testing.assert_close(got[real], whole[real], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_hole_that_does_not_count_under_every_method():
    """A row is read as if its hidden tokens were not there."""
    ids = tokens(2)
    positions, real = (HOLE.cumsum(1) - 1).clamp(min=0), HOLE[1].bool()
    for method in METHODS:
        model = lw.adapt(tiny_model("llama"), method)
        out = model(ids, attention_mask=HOLE, position_ids=positions).logits
        alone = model(ids[1:, real], use_cache=False).logits[0]
        torch.testing.assert_close(out[1, real], alone, atol=1e-5, rtol=0)


def test_prompts_that_only_plain_attention_can_follow():
    ids = tokens(2)
    for method in METHODS:
        model = lw.adapt(tiny_model("llama", eos_token_id=None), method)
        message = refusal(
            lambda: model.generate(ids, attention_mask=RIGHT, max_new_tokens=2)  # noqa: B023
        )
        assert message.startswith("row 1 of attention_mask ends with padding")
        mask = torch.cat([RIGHT, torch.ones(2, 1, dtype=torch.long)], 1)
        positions = torch.cat([RIGHT.cumsum(1) - 1, torch.tensor([[LENGTH], [3]])], 1)
        message = refusal(
            lambda: model(tokens(2, LENGTH + 1), attention_mask=mask, position_ids=positions)  # noqa: B023
        )
        assert "start again behind padding" in message
        model(ids, attention_mask=RIGHT)  # a batch to train on
    model = lw.adapt(tiny_model("llama"))
    for shape in ((3, LENGTH), (2, 4), (LENGTH,)):
        given = {"position_ids": torch.zeros(shape, dtype=torch.long)}
        assert "a position for each of 2 x 30" in refusal(lambda: model(ids, **given))  # noqa: B023


@torch.no_grad()
def test_a_padded_cache_goes_on_without_a_mask():
    """Without a mask a cache goes on by what it knows of its padding."""
    for family in ("llama", "qwen3", "smollm3"):
        model, ids, then = lw.adapt(tiny_model(family)), tokens(2), tokens(2, 3, seed=2)
        cache = lw.new_cache(model)
        model(ids, attention_mask=RIGHT, **{CACHE: cache})
        got = model(then, **{CACHE: cache}).logits
        alone = torch.cat([ids[1:, :26], then[1:]], 1)
        torch.testing.assert_close(got[1:], model(alone).logits[:, -3:], atol=1e-5, rtol=0)
