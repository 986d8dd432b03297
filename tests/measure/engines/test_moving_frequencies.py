"""Models whose frequencies follow the length: a text in parts gives what one forward gives."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.cli.run import read_all
from lengthwise.extend.adapt import adapted, is_adapted
from lengthwise.extend.whole import steady
from lengthwise.hf.families import frequencies_follow_length
from lengthwise.measure.cost.speed import reading_cost
from lengthwise.measure.engines.greedy import greedy
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.engines.reading import read
from lengthwise.measure.probes.knn import NeighbourStore, generation_study, states
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.testing.models import FAMILIES, tiny_model, tiny_tokenizer

IDS = torch.arange(3, 63)[None]
CHUNK = 16
FAR = 1e-4  # angles in float32, as transformers has them; stale keys are off by 0.1 at least


def moving(family: str) -> PreTrainedModel:
    """The family with longrope, if that is its own, or dynamic NTK from 16 tokens on."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    if family == "gemma3_text":
        kinds = ("sliding_attention", "full_attention")
        changes: dict = {"rope_parameters": {kind: dict(dynamic) for kind in kinds}}
    else:
        changes = {} if family == "phi3" else {"rope_parameters": dynamic}
    if family != "phi3":
        changes |= {"max_position_embeddings": 16}
    model = tiny_model(family, **changes)
    return model if family == "gpt_oss" else model.double()


def parts(model: PreTrainedModel, ids: Tensor = IDS) -> Tensor:
    return torch.cat([logits for logits, _ in read(model, ids, CHUNK, every_logit=True)], 1)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_give_what_one_forward_gives(family: str) -> None:
    model = moving(family)
    assert frequencies_follow_length(model)
    whole = moving(family)(IDS).logits  # a fresh one: dynamic frequencies stay where they were
    far = 2e-3 if family == "gpt_oss" else FAR  # float32, and experts that are chosen
    assert apart(parts(model), whole) < far and not is_adapted(model)
    with steady(model):
        assert apart(parts(model), whole) < far
        # What is announced is of one text: the next one, a short one, has its own frequencies.
        short = moving(family)(IDS[:, :14]).logits
        assert apart(parts(model, IDS[:, :14]), short) < far
    before = moving(family)(IDS[:, :-1]).logits[0].float()  # the last token is not read
    losses = torch.nn.functional.cross_entropy(before, IDS[0, 1:], reduction="none")
    assert apart(losses_by_position(model, IDS, CHUNK)[0], losses) < far
    with adapted(model):
        last, cache = read_all(model, IDS, CHUNK)  # of `lengthwise run`
        assert apart(last[:, -1], whole[:, -1]) < far and cache.get_seq_length() == 60


@torch.no_grad()
def test_answers_are_those_of_reading_everything_anew() -> None:
    """Behind the switch of longrope all is read with long factors, so nothing may be stale."""
    model = moving("phi3")
    so_far = IDS
    for _ in range(6):
        so_far = torch.cat([so_far, model(so_far).logits[:, -1:].argmax(-1)], 1)
    expected = so_far[:, 60:]
    assert greedy(model, IDS, 6, CHUNK) == expected.tolist()
    tokenizer = tiny_tokenizer()
    prompt = tokenizer.decode(IDS[0, 10:].tolist())
    item = Item(prompt, "", 0, (), allowance=6)
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    assert ids.shape[1] > 40
    answer = tokenizer.decode(greedy(model, ids, 6, 400)[0], skip_special_tokens=True)
    for reader in (LocalReader(model, tokenizer, CHUNK), LocalReader(model, tokenizer, 400)):
        (reply,) = reader.answer([item])
        assert reply.text == answer
    assert not is_adapted(model)


@torch.no_grad()
def test_every_other_reader_is_right_too() -> None:
    model = moving("phi3")
    whole = model(IDS, output_hidden_states=True)
    hidden, predicted, _ = states(model, IDS, chunk=CHUNK)
    assert apart(hidden, whole.hidden_states[-1].float()) < FAR
    assert apart(predicted, whole.logits.float().log_softmax(-1)) < FAR
    store = NeighbourStore.of(model, IDS[0], window=20)
    drawn = torch.Generator().manual_seed(0)
    own, _, written = generation_study(model, store, [IDS[0]], 4, 0.0, drawn)
    read_anew = torch.cat([IDS[0], written[0]])[None]
    logs = model(read_anew[:, :-1]).logits[0, -4:].float().log_softmax(-1)
    assert apart(own[0], -(logs.exp() * logs).sum(-1)) < FAR
    assert reading_cost(model, IDS, 2, CHUNK).cache_bytes > 0 and not is_adapted(model)
