"""`lengthwise list` and `lengthwise --version`."""

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version

import lengthwise as lw
from lengthwise.docstrings import first_sentence
from lengthwise.measure import tasks
from lengthwise.rooms import ROOMS, items
from lengthwise.train.recipes import RECIPES


def test_every_room_is_listed(call: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = call("list")
    assert (status, err) == (0, "")
    assert all(f"  {room} " in out for room in ROOMS)


def test_a_room_lists_what_it_exports_with_a_sentence_each(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    for room in ROOMS:
        status, out, err = call("list", room)
        assert (status, err) == (0, "")
        for item in items(room):
            assert f"\n  {item.name} " in out
            assert item.summary, f"{room}: nothing is said of {item.name}"
        assert max(map(len, out.splitlines())) <= 100
    assert {"Passkey", "NIAH"} <= {item.name for item in items("tasks")} <= set(tasks.__all__)
    assert [item.name for item in items("recipes")] == list(RECIPES)


def test_the_sources_say_what_the_things_themselves_do() -> None:
    for room, module in ROOMS.items():
        if room != "recipes":
            home = import_module(module)
            things = {name: getattr(home, name) for name in home.__all__}
            assert {item.name: item.summary for item in items(room)} == {
                name: first_sentence(inspect.getdoc(thing) or "")
                for name, thing in things.items()
                if inspect.isclass(thing) or inspect.isfunction(thing)
            }


def test_an_unknown_room(refused: Callable[..., str]) -> None:
    assert "list one of tasks," in refused("list", "taskz")


def test_the_version(call: Callable[..., tuple[int, str, str]]) -> None:
    assert call("--version") == (0, f"lengthwise {version('lengthwise')}\n", "")
    assert lw.__version__ == version("lengthwise")


def test_what_a_person_looks_for_is_found_on_top() -> None:
    assert {"adapt", "YaRN", "measure", "train", "load"} <= set(lw.__all__)
    assert not [name for name in lw.__all__ if name.startswith("_")]
    assert all(getattr(lw, name) is not None for name in lw.__all__)
    assert lw.measure.run and lw.train.__doc__
