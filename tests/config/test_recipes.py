"""``recipe=NAME``: named variants in a method's file, and how the command line, names and records see them."""

from __future__ import annotations

import pytest

from ader.config.compose import compose
from ader.config.options import options, read_option
from ader.results.identity import recipe, run_name
from ader.system.errors import UserError

RECIPES = {name: read_option("method", name).get("recipes") or {} for name in options("method")}
EACH = [(method, name) for method, recipes in RECIPES.items() for name in recipes]

YAML = """
name: made_up
width: 4
backbone: {name: a, pretrained: true}
epochs: ${trainer.epochs}
recipes:
  official: {method.width: 8, trainer.epochs: 7, method.backbone.name: b, image_size: 224}
"""


@pytest.fixture
def here(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "made_up.yaml").write_text(YAML)
    (tmp_path / "method" / "plain.yaml").write_text("name: made_up\n")

    def composed(*words, method="made_up"):
        return compose([f"method={method}", "dataset=demo", *words], str(tmp_path))

    return composed


def test_default(here):
    values = here().values
    assert values["method"] == {
        "name": "made_up",
        "width": 4,
        "backbone": {"name": "a", "pretrained": True},
        "epochs": 100,
    }
    assert values["recipe"] is None
    assert run_name(here().composition) == "e100-s42"


def test_a_recipe_changes_values_anywhere(here):
    values = here("recipe=official").values
    assert values["method"] == {
        "name": "made_up",
        "width": 8,
        "backbone": {"name": "b", "pretrained": True},
        "epochs": 7,
    }
    assert (values["trainer"]["epochs"], values["image_size"], values["recipe"]) == (7, 224, "official")


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        (["method.width=5"], "width", 5),
        (["method.backbone.name=c"], "backbone", {"name": "c", "pretrained": True}),
        (["trainer.epochs=3"], "epochs", 3),
        (["method.epochs=2"], "epochs", 2),
    ],
)
def test_the_command_line_wins(here, words, key, expected):
    for order in (["recipe=official", *words], [*words, "recipe=official"]):
        values = here(*order).values
        assert values["method"][key] == expected
        assert values["image_size"] == 224


def test_names(here):
    """A folder's name says which recipe, and what differs from it."""
    assert run_name(here("recipe=official").composition) == "e7-s42-recipe=official"
    assert run_name(here("recipe=official", "method.width=5").composition) == "e7-s42-width=5-recipe=official"
    assert run_name(here("recipe=official", "method.width=8").composition) == "e7-s42-recipe=official"
    fingerprints = [recipe(here(*words).values) for words in ([], ["recipe=official"])]
    assert fingerprints[0] != fingerprints[1]
    assert not any("recipes" in key for each in fingerprints for key in each)


def test_errors(here):
    with pytest.raises(UserError, match=r"recipe=offical does not exist for made_up.*official"):
        here("recipe=offical")
    with pytest.raises(UserError, match="recipe=official: method plain has only its default recipe"):
        here("recipe=official", method="plain")


@pytest.mark.parametrize(("method", "name"), EACH)
def test_every_recipe_differs_from_the_default(method, name):
    """And every value that it states differs from the default's: else it says nothing."""
    default = compose([f"method={method}", "dataset=demo"]).values
    values = compose([f"method={method}", "dataset=demo", f"recipe={name}"]).values
    for key in RECIPES[method][name]:
        one, other = default, values
        for part in key.split("."):
            one, other = one[part], other[part]
        assert one != other, f"{method}, recipe {name}: {key}={other} is the default"
