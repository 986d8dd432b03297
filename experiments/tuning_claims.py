"""What each recipe's paper claims of tuning, in numbers, and what it is held against.

`t` is an arm's target and 1 the base's own window, in windows. Losses of two lengths are of the
same tokens, so a gap between them is what the context does. Bounds are ours, for a small model.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from lengthwise.lab.evidence import Finding, at_least, at_most, exact, surely_at_least
from lengthwise.measure.statistics.intervals import bootstrap_mean

if TYPE_CHECKING:
    from tuning_rows import Runs

NEAR = 0.1  # nats a token that count as no difference
BASE = "base"
Judge = Callable[["Runs"], Finding]


class Judged(NamedTuple):
    """A row: its arms, what must do worse, that it does, and the claim."""

    arms: tuple[str, ...]
    control: str
    premise: Judge
    findings: Callable[["Runs"], Sequence[Finding]]


def tokens(runs: "Runs", windows: int) -> str:
    return f"{windows * runs.window:,} tokens"


def fails(t: int) -> Judge:
    """That the base is worse after `t` windows than inside its own."""
    return lambda r: at_least(
        f"untuned, the base's loss is higher after {tokens(r, t)} than after {tokens(r, 1)} by at "
        "least 0.1", r.gap("loss", (BASE, t), (BASE, 1)), NEAR,
    )  # fmt: skip


def lost(name: str, t: int, words: str, most: float = 0.5) -> Judge:
    """That a control finds few passkeys."""
    return lambda r: at_most(f"{words}, at most {most:.0%} of the passkeys are found in "
                             f"{tokens(r, t)}", r.found(name, t), most)  # fmt: skip


def flat(name: str, t: int) -> Judge:
    return lambda r: at_most(
        f"after {tokens(r, t)} the loss is the base's after {tokens(r, 1)}, or at most 0.1 above",
        r.gap("loss", (name, t), (BASE, 1)), NEAR,
    )  # fmt: skip


def kept(name: str, by: float = NEAR) -> Judge:
    return lambda r: at_most(
        f"after {tokens(r, 1)} the loss is the base's, or at most {by:g} above",
        r.gap("loss", (name, 1), (BASE, 1)), by,
    )  # fmt: skip


def mends(name: str, t: int) -> Judge:
    return lambda r: at_most(f"after {tokens(r, t)} the loss is below the base's by 0.1 or more",
                             r.gap("loss", (name, t), (BASE, t)), -NEAR, "the base")  # fmt: skip


def near(name: str, t: int, other: str, words: str) -> Judge:
    return lambda r: at_most(f"after {tokens(r, t)} the loss is that of {words}, or at most 0.1 "
                             "above", r.gap("loss", (name, t), (other, t)), NEAR)  # fmt: skip


def below(name: str, t: int, other: str, words: str, what: str = "loss") -> Judge:
    said = "the loss is" if what == "loss" else "answers to passkeys take fewer nats,"
    return lambda r: at_most(f"after {tokens(r, t)} {said} below {words}",
                             r.gap(what, (name, t), (other, t)), 0.0, words)  # fmt: skip


def finds(name: str, t: int, least: float = 0.75) -> Judge:
    return lambda r: at_least(f"at least {least:.0%} of the passkeys are found in {tokens(r, t)}",
                              r.found(name, t), least)  # fmt: skip


def finds_more(name: str, t: int, other: str, words: str, by: float) -> Judge:
    return lambda r: surely_at_least(
        f"in {tokens(r, t)} at least {by:.0%} more of the passkeys are found than {words}",
        r.gap("found", (name, t), (other, t)), by,
    )  # fmt: skip


def quicker(name: str, other: str, most: float, words: str) -> Judge:
    """That a step takes at most so much of another's CPU time, side by side."""

    def judge(r: "Runs") -> Finding:
        found = r.steps_in_turns(name, other)
        parts = torch.tensor(found[name]["seconds"]) / torch.tensor(found[other]["seconds"])
        part = bootstrap_mean(parts.double(), torch.Generator().manual_seed(0))
        return at_most(f"a token takes at most {most:g} times the time {words}", part, most)

    return judge


def leaner(name: str, other: str, most: float, words: str) -> Judge:
    """That a row keeps at most so much of another's bytes for its way back."""

    def judge(r: "Runs") -> Finding:
        found = r.steps_in_turns(name, other)
        part = found[name]["bytes"] / found[other]["bytes"]
        said = f"bytes that a row keeps to go back are at most {most:g} times those {words}"
        return exact(at_most(said,
                             part, most))  # fmt: skip

    return judge


def all_of(*judges: Judge) -> Callable[["Runs"], Sequence[Finding]]:
    return lambda r: [judge(r) for judge in judges]


def scales(r: "Runs") -> list[Finding]:
    """One checkpoint under the scale that each length asks for, beside the base under the same."""
    inside = r.values("loss", BASE, 1)
    found = []
    for g in (2, 4, 8):
        tuned, untuned = r.at_scale("e2llm", g), r.at_scale(BASE, g)
        found.append(at_most(
            f"under scale {g}, after {tokens(r, g)}, the loss is the base's in its window, or at "
            "most 0.1 above", mean(tuned - inside), NEAR,
        ))  # fmt: skip
        found.append(at_most("and below the base's under that scale by 0.1 or more",
                             mean(tuned - untuned), -NEAR, "the base so"))  # fmt: skip
    return found


def stays_near(r: "Runs") -> Finding:
    return at_most("divergence from the base on texts of its window, nats a token",
                   mean(torch.tensor(r.short_kl("longpo"))), NEAR)  # fmt: skip


def varied(r: "Runs") -> list[Finding]:
    """More varied greedy texts, a higher loss on held-out text."""
    mine, base, fresh = (r.greedy(name) for name in ("hyperfit", BASE, "hyperfit_fresh"))
    return [
        exact(at_most("the highest loss on its own texts at the end",
                      max(r.training("hyperfit")), 0.5)),
        at_least("the type-token ratio of greedy texts rises",
                 mean(mine["ratio"] - base["ratio"]), 0.01, "the base"),
        at_most("of their 4-grams fewer repeat", mean(mine["again"] - base["again"]), -0.01,
                "the base"),
        at_least("the ratio is above that after as many steps on fresh text",
                 mean(mine["ratio"] - fresh["ratio"]), 0.01, "fresh text"),
        at_least("the loss on held-out text grows",
                 r.gap("loss", ("hyperfit", 1), (BASE, 1)), 0.0, "the base"),
    ]  # fmt: skip


def repeats(r: "Runs") -> Finding:
    return at_least("of the 4-grams of the base's greedy texts so many repeat",
                    mean(r.greedy(BASE)["again"]), 0.2)  # fmt: skip


def quality(r: "Runs") -> Finding:
    """LongRoPE2's 98.5%, of the likelihood of a token: exp(-0.015) of it."""
    return at_most("after the window's own length the loss is at most 0.015 above the base's",
                   r.gap("loss", ("longrope2_mixed", 1), (BASE, 1)), 0.015)  # fmt: skip


def in_the_middle(r: "Runs") -> Finding:
    return at_most(
        f"answers to passkeys in the middle half of {tokens(r, 8)} take fewer nats than under "
        "uniform sampling", r.middle("nats", "cream", "cream_uniform", 8), 0.0, "uniform sampling",
    )  # fmt: skip


def mean(values: torch.Tensor):  # type: ignore[no-untyped-def]
    return bootstrap_mean(values.double(), torch.Generator().manual_seed(0))


PI = "full tuning at the whole length (recipe pi)"
CLAIMS: dict[str, Judged] = {
    "pi": Judged(
        ("pi", "direct"), "the base untuned, and as much tuning without interpolation", fails(4),
        all_of(flat("pi", 4), kept("pi"), mends("pi", 4), finds("pi", 4),
               below("pi", 4, "direct", "that of tuning without interpolation")),
    ),
    "yarn": Judged(
        ("yarn", "yarn_tenth", "pi"), "recipe pi on the same tokens", fails(4),
        all_of(below("yarn", 4, "pi", "that of recipe pi"), kept("yarn"), finds("yarn", 4),
               below("yarn_tenth", 4, "pi", "that of recipe pi on ten times the tokens")),
    ),
    "abf": Judged(
        ("abf", "pi"), "the base untuned, and recipe pi on the same tokens", fails(4),
        all_of(flat("abf", 4), kept("abf"), finds("abf", 4),
               below("abf", 4, "pi", "that of recipe pi")),
    ),
    "longlora": Judged(
        ("longlora", "longlora_bare", "pi"), "adapters alone, embeddings and norms frozen",
        fails(4),
        all_of(near("longlora", 4, "pi", PI), mends("longlora", 4),
               below("longlora", 4, "longlora_bare", "that of adapters alone"),
               quicker("longlora", "pi", 1.0, "of full tuning")),
    ),
    "longqlora": Judged(
        ("longqlora", "pi"), "the base untuned", fails(4),
        all_of(near("longqlora", 4, "pi", PI), mends("longqlora", 4)),
    ),
    "llama3_qlora": Judged(
        ("llama3_qlora",), "the base untuned", fails(10),
        all_of(finds("llama3_qlora", 10), mends("llama3_qlora", 10), kept("llama3_qlora"),
               finds_more("llama3_qlora", 10, BASE, "by the base", 0.5)),
    ),
    "pose": Judged(
        ("pose", "pi", "pi_short"), "rows of the old window without skipped positions", fails(4),
        all_of(near("pose", 4, "pi", PI),
               below("pose", 4, "pi_short", "that of such rows without skips"),
               quicker("pose", "pi", 0.9, "of full tuning"),
               leaner("pose", "pi", 0.5, "of full tuning")),
    ),
    "cream": Judged(
        ("cream", "cream_uniform"), "the middle block drawn uniformly", fails(8),
        all_of(finds("cream", 8), mends("cream", 8), in_the_middle),
    ),
    "e2llm": Judged(("e2llm",), "the base under the same scales", fails(8), scales),
    "longrecipe": Judged(
        ("longrecipe", "longrecipe_all", "abf_short"), "rows as long, positions as they are",
        fails(4),
        all_of(finds("longrecipe", 4), kept("longrecipe"),
               below("longrecipe", 4, "abf_short", "that of rows as long without spread positions"),
               below("longrecipe", 4, "longrecipe_all", "of all sentences alike", "nats")),
    ),
    "skipalign": Judged(
        ("skipalign", "skipalign_plain"), "the same samples without skipped positions",
        lost("skipalign_plain", 4, "after plain tuning on the same samples"),
        all_of(finds("skipalign", 4),
               finds_more("skipalign", 4, "skipalign_plain", "after plain tuning", 0.2)),
    ),
    "segmented": Judged(
        ("segmented", "pi_short"), "the base untuned, and rows of one segment", fails(4),
        all_of(mends("segmented", 4),
               below("segmented", 4, "pi_short", "that of rows of one segment"),
               leaner("segmented", "pi_short", 1.01, "of rows of one segment")),
    ),
    "anchor": Judged(
        ("anchor", "anchor_none", "anchor_joined"), "documents apart without an anchor, and joined",
        lost("anchor_none", 4, "without an anchor"),
        all_of(quicker("anchor", "anchor_joined", 1.0, "of documents joined"),
               below("anchor", 4, "anchor_none", "without an anchor", "nats"),
               below("anchor", 4, "anchor_joined", "with documents joined", "nats"),
               finds_more("anchor", 4, "anchor_none", "without an anchor", 0.0)),
    ),
    "longpo": Judged(
        ("longpo", "longpo_dpo", "longpo_sft"),
        "plain preferences, and imitation, on the same answers",
        lost("untuned:longpo", 4, "untuned, under the recipe's frequencies"),
        all_of(finds_more("longpo", 4, "untuned:longpo", "untuned", 0.1),
               below("longpo", 4, "longpo_dpo", "after plain preferences", "nats"),
               below("longpo", 4, "longpo_sft", "after imitation", "nats"), stays_near),
    ),
    "longrope2_mixed": Judged(
        ("longrope2_mixed", "longrope2_one"), "the same rows on the rescaled frequencies alone",
        fails(4),
        all_of(quality, flat("longrope2_mixed", 4),
               below("longrope2_mixed", 1, "longrope2_one", "that of rescaled frequencies alone")),
    ),
    "hyperfit": Judged(
        ("hyperfit", "hyperfit_fresh"), "the base, and as many steps on fresh text", repeats, varied
    ),
}  # fmt: skip
SIZES = "488 steps of 4,096 tokens"
DIFFERENCES: dict[str, tuple[str, ...]] = {
    "pi": ("the window becomes four times as long", SIZES),
    "yarn": ("steps until a length is reached were not counted: a tenth of the tokens is held "
             "against all of recipe pi's", SIZES),
    "abf": (SIZES,),
    "longlora": (SIZES,),
    "longqlora": ("memory was not measured", SIZES),
    "llama3_qlora": ("questions are passkeys, pairs, needles and chains in texts, half of the rows",
                     SIZES),
    "pose": ("memory is bytes that autograd keeps of a row", SIZES),
    "cream": (SIZES,),
    "e2llm": (SIZES,),
    "longrecipe": ("tokens are impactful whose loss a long context changes most, by recipe abf "
                   "against the base; weights are not merged and earlier data not read again",
                   SIZES),
    "skipalign": ("samples are problems of retrieval in one window, labels on answers", SIZES),
    "segmented": ("memory is bytes that autograd keeps of a row", SIZES),
    "anchor": ("the paper's speed is against full attention at 64K", SIZES),
    "longpo": ("instructions are passkeys, answered by the base itself", SIZES),
    "longrope2_mixed": ("the factors are those of NTK, not searched ones", SIZES),
    "hyperfit": ("16 texts of 256 tokens",),
}  # fmt: skip
