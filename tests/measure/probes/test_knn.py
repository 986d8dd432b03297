"""The study of kNN-LM: its measures on input whose answer is known, and a real store."""

import pytest
import torch

from lengthwise.measure.probes import (
    NeighbourStore,
    entropy_growth,
    generation_study,
    token_study,
)
from lengthwise.measure.probes.knn import mixture, states
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.testing.models import tiny_model


def seeded():
    return torch.Generator().manual_seed(0)


def test_perplexity_falls_while_most_tokens_are_hurt():
    """One token in ten gains 4 nats, the others lose a tenth."""
    plain = torch.full((100,), 5.0)
    mixed = plain + 0.1
    mixed[::10] = 1.0
    found = token_study(plain, mixed)
    assert found.mixed < found.plain
    assert found.hurt.value == pytest.approx(0.9) and found.hurt.low > 0.5
    assert found.saved == pytest.approx(0.4) and found.lost == pytest.approx(0.09)
    assert found.plain == pytest.approx(torch.tensor(5.0).exp().item())
    same = token_study(plain, plain)
    assert same.hurt.value == 0 and same.plain == same.mixed


def test_a_mixture_can_cost_a_token_no_more_than_its_share():
    """A token without neighbours loses -log(1 - share); its bound by arithmetic."""
    plain = torch.randn(50, 30, generator=seeded()).log_softmax(-1)
    retrieved = torch.zeros(50, 30)
    retrieved[:, 0] = 1
    mixed = mixture(plain, retrieved, 0.25)
    assert mixed.exp().sum(-1).allclose(torch.ones(50))
    lost = (plain - mixed)[:, 1:]
    torch.testing.assert_close(lost, torch.full_like(lost, -torch.tensor(0.75).log()))
    torch.testing.assert_close(mixture(plain, retrieved, 0.0), plain)


def test_entropies_that_grow_at_known_rates():
    place = torch.arange(50.0)
    noise = 0.05 * torch.randn(2, 20, 50, generator=seeded())
    plain = 2 + 0.01 * place + noise[0]
    retrieved = 1 + 0.03 * place + noise[1]
    found = entropy_growth(plain, retrieved, seeded())
    assert found.plain.value == pytest.approx(1.0, abs=0.05)
    assert found.retrieved.value == pytest.approx(3.0, abs=0.05)
    assert found.faster.low > 1.9 and found.faster.high < 2.1
    none = entropy_growth(plain, plain - 1, seeded())
    assert none.faster.low == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def text():
    return torch.randint(3, 300, (120,), generator=torch.Generator().manual_seed(0))


def test_a_store_knows_its_own_text_by_heart(model, text):
    store = NeighbourStore.of(model, text, window=40, neighbours=4, temperature=0.01)
    assert store.keys.shape == (117, 48)  # the last token of each window has no successor
    hidden, predicted, _ = states(model, text[None, :39], chunk=10)
    found = store.predict(hidden[0], predicted.shape[-1])
    assert found.sum(-1).allclose(torch.ones(39), atol=1e-5)
    assert (found.argmax(-1) == text[1:40]).all()
    plain = -predicted[0, :38].gather(1, text[1:39, None])[:, 0]
    torch.testing.assert_close(plain, losses_by_position(model, text[None, :39])[0], atol=1e-5,
                               rtol=1e-5)  # fmt: skip
    mixed = mixture(predicted[0, :38], found[:38], 0.25).gather(1, text[1:39, None])[:, 0]
    assert token_study(plain, -mixed).mixed < token_study(plain, -mixed).plain


def test_neighbours_by_hand():
    store = NeighbourStore(
        torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([2, 2, 1]), neighbours=2, temperature=2.0
    )
    found = store.predict(torch.tensor([[0.0], [9.0]]), 4)
    near = torch.tensor([-1.0, -64.0]).div(2).softmax(0)  # keys 10 and 1 from 9
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(found[1], torch.tensor([0.0, near[0], near[1], 0.0]))


def test_writing_keeps_entropies(model, text):
    store = NeighbourStore.of(model, text, window=40)
    prompts = [text[:5], text[7:10]]
    own, found, written = generation_study(model, store, prompts, 6, 0.25, seeded())
    again = generation_study(model, store, prompts, 6, 0.25, seeded())
    assert torch.equal(written[0], again[2][0]) and torch.equal(own, again[0])
    assert own.shape == found.shape == (2, 6) and (found >= 0).all()
    read = torch.cat([prompts[0], written[0][:3]])[None]
    with torch.no_grad():
        after = model(input_ids=read).logits[0, -1].log_softmax(-1)
    assert float(own[0, 3]) == pytest.approx(float(-(after.exp() * after).sum()), abs=1e-4)


def test_bad_arguments(model, text):
    with pytest.raises(ValueError, match="must be of the same tokens"):
        token_study(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="t at least 2"):
        entropy_growth(torch.zeros(2, 1), torch.zeros(2, 1), seeded())
    with pytest.raises(ValueError, match="share must be from 0 to below 1"):
        mixture(torch.zeros(2), torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        NeighbourStore(torch.zeros(1, 2), torch.zeros(1), neighbours=0)
    with pytest.raises(ValueError, match="must be as many"):
        NeighbourStore(torch.zeros(2, 2), torch.zeros(1))
    store = NeighbourStore.of(model, text, window=40)
    with pytest.raises(ValueError, match="prompts and tokens to write"):
        generation_study(model, store, [], 3, 0.1, seeded())
