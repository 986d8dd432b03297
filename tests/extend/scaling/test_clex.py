"""CLEX: an untuned network is NTK, an integrator that can be checked, and tuning that learns."""

import pytest
import torch
from scipy.integrate import solve_ivp

import lengthwise as lw
from lengthwise.core.geometry import RotaryBase
from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.scaling.clex_network import CLEXNetwork, spread_positions, tune_clex
from lengthwise.testing.models import VOCABULARY, WINDOW, tiny_model

BASE = RotaryBase(16, 10_000.0, "default", lambda n: pytest.fail("not our own"), True)


def lively(seed=0, **kw):
    network = CLEXNetwork(16, 10_000.0, **kw)
    with torch.no_grad():
        network.down.normal_(std=0.05, generator=torch.Generator().manual_seed(seed))
    return network


def test_an_untuned_network_is_ntk_at_twice_the_factor_less_one():
    scaling = CLEXNetwork(16, 10_000.0).scaling(5)
    lengths = torch.tensor([64 * t for t in range(1, 6)])
    got = scaling.rotary(BASE, 64, lengths).inv_freq
    for t in range(1, 6):
        ntk = lw.NTK(factor=2 * t - 1).rotary(BASE, 64, lengths).inv_freq
        torch.testing.assert_close(got[t - 1], ntk, rtol=1e-5, atol=0)


def test_the_integral_is_that_of_another_solver():
    network = lively().double()
    exponents = torch.arange(0, 16, 2).double() / 16
    index = torch.arange(0, 16, 2).double()

    def slope(t, z):
        alpha = 2 * t - 1
        ntk = -exponents * torch.tensor(10_000.0).double().log() - index / 14 * torch.log(
            torch.tensor(alpha).double()
        )
        moved = torch.nn.functional.silu((torch.tensor(z) + ntk) @ network.up) @ network.down
        return (moved - index / 14 * 2 / alpha).detach().numpy()

    start = (-exponents * torch.tensor(10_000.0).double().log()).numpy()
    solved = solve_ivp(slope, (1.0, 4.0), start, t_eval=[1, 2, 3, 4], rtol=1e-9, atol=1e-11)
    ours = network.log_frequencies(4).detach()
    torch.testing.assert_close(ours, torch.tensor(solved.y.T), atol=1e-4, rtol=0)
    finer = lively(substeps=64).double().log_frequencies(4).detach()
    torch.testing.assert_close(finer, torch.tensor(solved.y.T), atol=1e-6, rtol=0)


def test_the_row_follows_the_length():
    scaling = lively().scaling(3)
    lengths = torch.tensor([1, 64, 65, 128, 129, 192, 193, 9999])
    got = scaling.rotary(BASE, 64, lengths).inv_freq
    own = scaling.rotary(BASE, 64, torch.tensor([1])).inv_freq[0]
    rows = torch.tensor([[1.0] * 8, *scaling.factors])[[0, 0, 1, 1, 2, 2, 2, 2]]
    torch.testing.assert_close(got, own / rows)
    fixed = scaling.at(2).rotary(BASE, 64, lengths)
    torch.testing.assert_close(fixed.inv_freq, got[2])
    assert fixed.attention_factor == 1 and scaling.reach(64) == 192


def test_tuning_learns_and_leaves_the_model_alone():
    model = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.randint(3, VOCABULARY, (2, WINDOW), generator=torch.Generator().manual_seed(0))

    def run(seed):
        steps = list(tune_clex(model, [ids] * 12, max_factor=4, learning_rate=0.05, seed=seed))
        return steps[-1][0], [loss for _, loss in steps]

    network, losses = run(1)
    again, same = run(1)
    assert losses == same and torch.equal(network.down, again.down)
    assert run(2)[1] != losses
    assert network.down.abs().max() > 0
    assert not is_adapted(model) and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tuned, fresh = network.scaling(4), CLEXNetwork(8, 10_000.0).scaling(4)
    assert tuned.factors[2] != fresh.factors[2]


def test_the_model_can_learn_with_it():
    model = tiny_model("llama")
    chosen = [model.model.embed_tokens.weight]
    before, other = chosen[0].clone(), model.model.layers[0].mlp.up_proj.weight.clone()
    ids = torch.randint(3, VOCABULARY, (1, WINDOW), generator=torch.Generator().manual_seed(0))
    list(tune_clex(model, [ids], max_factor=2, model_parameters=chosen, model_learning_rate=0.1))
    assert not torch.equal(chosen[0], before)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, other)


def test_a_network_is_saved_whole(tmp_path):
    network = lively(width=2, substeps=3)
    network.save(tmp_path / "clex.safetensors")
    again = CLEXNetwork.load(tmp_path / "clex.safetensors")
    assert again.scaling(6) == network.scaling(6)
    assert [path.name for path in tmp_path.iterdir()] == ["clex.safetensors"]
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other")
    (tmp_path / "broken").write_bytes(b"no")
    for name, words in (("other", "holds no CLEX network"), ("broken", "cannot read a CLEX")):
        with pytest.raises(ValueError, match=words):
            CLEXNetwork.load(tmp_path / name)


def test_spread_positions():
    g = torch.Generator().manual_seed(0)
    got = spread_positions(10, 40, g)
    assert got[0] == 0 and got[-1] == 39 and (got.diff() > 0).all() and len(got) == 10
    assert torch.equal(spread_positions(10, 10, g), torch.arange(10))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lw.CLEX(()), "must be rows of numbers, got ()"),
        (lambda: lw.CLEX((1.0, 2.0)), "must be rows of numbers"),
        (lambda: lw.CLEX(((1, 1), (2,))), "as many numbers as the first, got [2, 1]"),
        (lambda: lw.CLEX(((1, 2), (2, 3))).at(4), "factor must be from 2 to 3"),
        (lambda: CLEXNetwork(8, 1e4).scaling(1), "max_factor must be"),
        (lambda: lw.CLEX(((1, 1), (2, 3))).check_base(BASE), "this model rotates 8 pairs"),
        (lambda: CLEXNetwork(2, 1e4), "dim must be a whole number of at least 4, got 2"),
        (lambda: next(tune_clex(tiny_model("llama"), [], max_factor=1)), "max_factor must be"),
        (
            lambda: next(tune_clex(tiny_model("llama"), [torch.ones(1, 65).long()], max_factor=2)),
            "at most 64 tokens, the model's window, got 65",
        ),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value)
