"""A ragged batch without its padding is the padded one, in every family, and costs what is real."""

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.adapt import adapted
from lengthwise.extend.unpadded import unpadded_logits
from lengthwise.testing.models import KINDS, tiny_model


def batch(model, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 90, (3, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(ids)
    for row, length in enumerate((40, 9, 23)):
        mask[row, slice(-length, None) if side == "left" else slice(length)] = 1
    return ids, mask


@torch.no_grad()
def test_every_family_gives_what_each_text_gives_alone() -> None:
    for family in KINDS:
        model = tiny_model(family)
        model = model if family == "gpt_oss" else model.double()
        for side in ("left", "right"):
            ids, mask = batch(model, side)
            found = unpadded_logits(model, ids, mask)
            for row in range(3):
                real = mask[row].bool()
                alone = model(input_ids=ids[row][real][None], use_cache=False).logits[0]
                close = 2e-4 if family == "gpt_oss" else 1e-5  # transformers turns in float32
                assert torch.allclose(found[row][real], alone, atol=close), (family, side, row)
                assert not bool(found[row][~real].any())


@torch.no_grad()
def test_methods_read_each_text_alone() -> None:
    model = tiny_model("llama").double()
    ids, mask = batch(model, "right")
    with adapted(model, lw.SelfExtend(group=4, window=8)):
        found = unpadded_logits(model, ids, mask)
        alone = model(input_ids=ids[2:, :23], use_cache=False).logits[0]
    assert torch.allclose(found[2, :23], alone, atol=1e-8)


def test_gradients_are_those_of_texts_alone() -> None:
    model = tiny_model("llama").double()
    ids, mask = batch(model, "right")
    unpadded_logits(model, ids, mask).sin().sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with adapted(model):  # whose angles are the same
        for row, length in enumerate((40, 9, 23)):
            alone = model(input_ids=ids[row : row + 1, :length], use_cache=False).logits
            alone.sin().sum().backward()
    for ours, parameter in zip(found, model.parameters(), strict=True):
        assert torch.allclose(ours, parameter.grad, atol=1e-8)


def test_no_pair_of_two_texts_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lengthwise.core import attention

    seen = []
    inner = attention.place_keys

    def noting(block, *rest):
        seen.append(len(block))
        return inner(block, *rest)

    monkeypatch.setattr(attention, "place_keys", noting)
    model = tiny_model("llama")
    with torch.no_grad():
        unpadded_logits(model, *batch(model, "left"))
    assert set(seen) == {40, 9, 23}


def test_bad_masks_are_refused() -> None:
    model = tiny_model("llama")
    ids, mask = batch(model, "left")
    for wrong, said in ((mask[:2], "attention_mask must be"), (mask * 0, "no real token")):
        with pytest.raises(ValueError, match=said):
            unpadded_logits(model, ids, wrong)
