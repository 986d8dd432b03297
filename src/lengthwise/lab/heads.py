"""The claim on positional heads, held against a model: what is lost without them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence as files
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Evidence, at_least, share
from lengthwise.measure.engines.greedy import with_answers
from lengthwise.measure.engines.reading import first_token, read
from lengthwise.measure.probes.heads import (
    Head,
    PositionalHeads,
    ablated,
    highest,
    random_heads,
)
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks import Passkey
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.measure.tasks.text import held_out_text

_TEXTS = 4  # for the scores, and as many others for the loss
_NEAR = 32  # tokens of the short texts, on which far scores play no part


@dataclass(frozen=True)
class _Damage:
    """What a model without some heads does.

    Attributes:
        answer: Nats per token of the passkeys.
        found: Share of the passkeys whose every token is the likeliest.
        far: Nats per token in the second half of long texts.
        near: Nats per token of short texts.
    """

    answer: float
    found: float
    far: float
    near: float


class _Bench:
    """The same passkeys and texts for every set of heads."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        items: int,
        seed: int,
    ) -> None:
        self.model = model
        text = held_out_text()
        passkeys = Passkey(text).build(tokenizer, length, items, seed)
        self.passkeys = with_answers(tokenizer, passkeys)
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        head = first_token(tokenizer)
        lead = [] if head is None else [head]
        half = len(ids) // 2
        # What the heads are found on is not what they are judged on.
        self.found_on = _cut(ids[:half], lead, length, _TEXTS)
        self.long = _cut(ids[half:], lead, length, _TEXTS)
        self.short = _cut(ids[half:], lead, _NEAR, _TEXTS * length // _NEAR)

    @torch.no_grad()
    def without(self, heads: Sequence[Head]) -> _Damage:
        with ablated(self.model, heads):
            nats, right = 0.0, 0
            for ids, size in self.passkeys:
                whole = read(self.model, ids[None, :-1], every_logit=True)
                logits = torch.cat([logits for logits, _ in whole], 1)[0, -size:].cpu()
                targets = ids[-size:]
                nats += float(torch.nn.functional.cross_entropy(logits.float(), targets))
                right += bool((logits.argmax(-1) == targets).all())
            far = losses_by_position(self.model, self.long)[:, self.long.shape[1] // 2 :]
            near = losses_by_position(self.model, self.short)
        count = len(self.passkeys)
        return _Damage(nats / count, right / count, float(far.mean()), float(near.mean()))


def _cut(ids: Tensor, lead: list[int], length: int, count: int) -> Tensor:
    """`[count, length]`, spread over the text."""
    size = length - len(lead)
    step = len(ids) // count
    if step < size:
        raise ValueError(f"the text has {len(ids):,} tokens; {count} times {length:,} are wanted")
    rows = [
        torch.cat([ids.new_tensor(lead), ids[i * step : i * step + size]]) for i in range(count)
    ]
    return torch.stack(rows)


def same_layers(scores: Tensor, heads: Sequence[Head], generator: torch.Generator) -> list[Head]:
    """As many other heads in each of the layers; fewer where a layer has no more."""
    chosen: list[Head] = []
    for layer in sorted({layer for layer, _ in heads}):
        flagged = [head for head in heads if head[0] == layer]
        only = torch.full_like(scores, torch.nan)
        only[layer] = scores[layer]
        others = int((~only.isnan()).sum()) - len(flagged)
        if others:
            count = min(len(flagged), others)
            chosen += random_heads(only, count, generator, without=flagged)
    return chosen


def evidence(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    length: int,
    flag: float = 0.1,
    draws: int = 20,
    items: int = 16,
    seed: int = 0,
) -> Evidence:
    """Find the heads on some texts, ablate them on others, beside random ones.

    Args:
        name: What to call the model.
        length: Tokens of texts and passkeys, within the trained window; far is a quarter of it.
        flag: Share of the heads that are flagged.
        draws: Sets of random heads, at least 2: from all layers, and from the flagged ones' own.
        items: Passkeys.

    Raises:
        ValueError: As what it calls.
    """
    bench = _Bench(model, tokenizer, length, items, seed)
    generator = torch.Generator().manual_seed(seed)
    probe = PositionalHeads(far=length // 4)
    scores = probe.scores(model, bench.found_on, generator)
    flagged = highest(scores, flag)
    sets = [random_heads(scores, len(flagged), generator, flagged) for _ in range(draws)]
    own = [same_layers(scores, flagged, generator) for _ in range(draws)]
    whole, cut = bench.without([]), bench.without(flagged)
    others = [bench.without(chosen) for chosen in sets]
    matched = [bench.without(chosen) for chosen in own]

    def rise(one: _Damage, field: str) -> float:
        return float(getattr(one, field) - getattr(whole, field))

    def mean(sample: Sequence[_Damage], field: str) -> float:
        return sum(rise(one, field) for one in sample) / len(sample)

    def beyond(sample: Sequence[_Damage], field: str) -> Interval:
        """Nats beyond twice what random sets cost; the interval is over the sets."""
        gaps = [rise(cut, field) - 2 * rise(one, field) for one in sample]
        return bootstrap_mean(torch.tensor(gaps), torch.Generator().manual_seed(seed))

    findings = [
        at_least(
            "without the flagged heads the passkeys' loss rises by more than twice as much as "
            "without as many random heads: nats beyond that",
            beyond(others, "answer"), 0.0, "random heads",
        ),
        at_least(
            "so does the loss in the second half of long texts", beyond(others, "far"), 0.0,
            "random heads",
        ),
        at_least(
            "so does the passkeys' loss against random heads of the same layers",
            beyond(matched, "answer"), 0.0, "random heads of the same layers",
        ),
    ]  # fmt: skip
    claim = claims()["measure/positional_heads"]
    return files.of(
        claim,
        command=f"lengthwise probe heads {name} --length {length} --share {flag} "
        f"--draws {draws} --items {items} --seed {seed}",
        model={"name": name, "fingerprint": fingerprint(model), "window": length},
        seeds=(seed,),
        items={"texts": _TEXTS, "passkeys": items, "sets of random heads": draws},
        control="as many random heads, from all layers and from the same ones",
        findings=findings,
        numbers={
            "scores": [[round(x, 4) for x in row] for row in scores.tolist()],
            "flagged": [list(head) for head in flagged],
            "whole": asdict(whole),
            "without_flagged": asdict(cut),
            "without_random": [asdict(one) for one in others],
            "without_random_of_the_same_layers": [asdict(one) for one in matched],
            "mean_rise": {
                field: {
                    "flagged": rise(cut, field),
                    "random": mean(others, field),
                    "random_of_the_same_layers": mean(matched, field),
                }
                for field in ("answer", "found", "far", "near")
            },
            "passkeys_found": {
                "whole": share(round(whole.found * items), items),
                "without_flagged": share(round(cut.found * items), items),
            },
        },
    )


def of_the_bundled_model() -> Evidence:
    """The claim on the bundled model, inside its window, at the size that was published."""
    from lengthwise.extend.checkpoint import load

    model, tokenizer = load("demo", dtype=torch.float32)
    made = evidence(model.eval(), tokenizer, "demo", length=512, draws=8, items=6)
    return replace(made, command=claims()["measure/positional_heads"].command)
