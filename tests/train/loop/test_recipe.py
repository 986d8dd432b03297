"""Recipes by name, from TOML, from Python, with overrides; what is wrong is said in one line."""

from pathlib import Path

import pytest

from lengthwise.train.recipe import Recipe, read_recipe
from lengthwise.train.recipes import RECIPES


def test_a_name_with_overrides() -> None:
    recipe = read_recipe("pose", ["base=demo", "target=2048", "betas=0.8,0.9", "checkpointing=no"
                                  .replace("no", "false"), "also="])  # fmt: skip
    assert recipe.transform == RECIPES["pose"].transform
    assert (recipe.base, recipe.target, recipe.betas) == ("demo", 2048, (0.8, 0.9))
    assert (recipe.checkpointing, recipe.also) == (False, ())


def test_toml_may_begin_with_a_named_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "longlora"\ntarget = 4096\nalso = ["norms"]\nlearning_rate = 1\n')
    recipe = read_recipe(str(file), ["steps=5"])
    assert recipe.layout == RECIPES["longlora"].layout
    assert (recipe.target, recipe.also, recipe.steps) == (4096, ("norms",), 5)


def test_a_function_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from lengthwise.train.recipe import Recipe\n"
        "def short():\n    return Recipe(steps=3)\n"
        "def wrong():\n    return 3\n"
    )
    assert read_recipe(f"{file}:short") == Recipe(steps=3)
    with pytest.raises(ValueError, match=r"must return a lengthwise.train.Recipe, got int"):
        read_recipe(f"{file}:wrong")
    with pytest.raises(ValueError, match="no function 'absent'"):
        read_recipe(f"{file}:absent")


def test_the_nearest_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("learnin_rate = 1e-4\n")
    with pytest.raises(ValueError, match="no key 'learnin_rate'; did you mean learning_rate"):
        read_recipe(str(file))
    with pytest.raises(ValueError, match="no key 'step'; did you mean steps"):
        read_recipe("pi", ["step=3"])
    with pytest.raises(ValueError, match="no recipe 'longlra'; did you mean longlora"):
        read_recipe("longlra")


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["steps=many"], "steps must be a whole number, got 'many'"),
        (["steps=0"], "steps must be at least 1 and at most 10,000,000, got 0"),
        (["steps=99999999999"], "steps must be at least 1 and at most 10,000,000, got 99999999999"),
        (["passkeys=1000000"], "passkeys must be at least 0 and at most 10,000"),
        (["evaluate_lengths=9999999999"], "evaluate_lengths must be at least 2 and at most"),
        (["steps"], "write what is to differ from the recipe as key=value"),
        (["steps=1", "steps=2"], "steps is given twice"),
        (["tune=half"], "tune must be one of full, lora, got 'half'"),
        (["learning_rate=0"], "learning_rate must be above 0"),
        (["learning_rate=nan"], "learning_rate must be a number, got 'nan'"),
        (["four_bit=true"], 'four_bit goes with tune = "lora"'),
        (["short_share=2"], "short_share must be from 0 to 1"),
        (["also=heads", "tune=lora"], "also must name embeddings, norms, head, got 'heads'"),
        (["checkpointing=maybe"], "checkpointing must be true or false"),
        (["weigh=documents", "memory=tiledloss"], "tiledloss counts all tokens the same"),
        (["mixed_window=true", "methods="], "mixed_window needs methods"),
        (["rank=16"], 'rank=16 would not be read: tune = "full" has no adapters'),
        (["alpha=2"], "alpha=2.0 would not be read"),
        (["dropout=0.1"], "dropout=0.1 would not be read"),
        (["adapt=q_proj"], "adapt=('q_proj',) would not be read"),
        (["betas=0.5,0.9", "optimizer=sgd"], "sgd has none; they are AdamW's"),
        (["objective=longpo", "weigh=documents"], "an objective weighs tokens itself"),
        (["objective=longpo", "memory=tiledloss"], "tiledloss is for the loss of the next token"),
    ],
)
def test_bad_values(pairs: list[str], words: str) -> None:
    with pytest.raises(ValueError) as found:
        read_recipe("pi", pairs)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_bad_toml(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for text, words in (
        ("steps = [", "is no TOML"),
        ('steps = "9"', "steps must be a whole number"),
        ("extends = 3", "extends must be the name of a recipe"),
        ('extends = "none"', "no recipe 'none'"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_recipe(str(file))
    with pytest.raises(ValueError, match="there is no recipe"):
        read_recipe(str(tmp_path / "absent.toml"))


def test_what_a_run_needs_is_asked_for() -> None:
    with pytest.raises(ValueError, match="has no base; give it, as in base=demo"):
        read_recipe("pi", ["data=x", "target=4"]).ready()
