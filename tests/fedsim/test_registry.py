"""Parts by name: what a user may mistype is named, with the nearest known word."""

import pytest

from fedsim.errors import FedsimError
from fedsim.registry import Registry


@pytest.fixture
def registry() -> Registry[str]:
    made: Registry[str] = Registry("soup", "fedsim.soups", imports=True)

    @made.register("tomato")
    def tomato(bowl: str, litres: float = 1.0, toppings: list[str] | None = None) -> str:
        """Soup of tomatoes.

        More.
        """
        return f"{bowl} {litres} {toppings}"

    return made


def test_parts_are_made_with_checked_parameters(registry: Registry[str]) -> None:
    assert registry.create("tomato", "blue", litres=2, toppings=["basil"]) == "blue 2.0 ['basil']"
    assert registry.summary("tomato") == "Soup of tomatoes."
    assert registry.parameters("tomato") == {"litres": 1.0, "toppings": None}


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("tomatoe", {}, ["soup 'tomatoe'", "'tomato'"]),
        ("tomato", {"liters": 1}, ["liters", "'litres'"]),
        ("tomato", {"litres": "many"}, ["litres", "'many'", "number"]),
        ("no.such.module:soup", {}, ["no.such.module", "PYTHONPATH"]),
        ("math:squareroot", {}, ["squareroot", "sqrt"]),
    ],
)
def test_mistakes_are_explained(
    registry: Registry[str], name: str, parameters: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(FedsimError) as error:
        registry.create(name, "blue", **parameters)
    for word in words:
        assert word in str(error.value)


def test_a_callable_of_the_users_own_is_found(registry: Registry[str]) -> None:
    assert registry.create("posixpath:join", "a") == "a"
