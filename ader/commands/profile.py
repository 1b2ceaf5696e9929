"""``ader profile``: what a method costs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ader.config.compose import compose, take_flags
from ader.config.validate import without_weights
from ader.system.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Builds a method, trains and tests it on random images for a few steps, and prints its cost."""
    flags, overrides = take_flags(arguments)
    form = [word.partition("=")[2] for word in overrides if word.startswith("format=")]
    if form and form[-1] not in ("json", "text"):
        raise UserError(f"format={form[-1]} is not known: choose from json, text")
    overrides = [word for word in overrides if not word.startswith("format=")]
    named = {word.partition("=")[0] for word in overrides}
    if not named & {"dataset", "experiment"}:
        overrides.append("dataset=demo")  # only to complete the configuration: no image is read
    composed = compose(overrides, flags.config_dir)

    from ader.methods._base import find_class, recipe_arguments
    from ader.runs.job import run_options, trainer_options
    from ader.system.device import resolve_device
    from ader.system.precision import set_precision
    from ader.system.randomness import seed_all
    from ader.training.cost import measure

    options, trainer = run_options(composed), trainer_options(composed)
    device = resolve_device(trainer.device)
    set_precision(trainer.precision)
    seed_all(options.seed)
    values = without_weights(composed.values["method"])
    method_class = find_class(values.pop("name"))
    method = method_class(**recipe_arguments(method_class, options.image_size, values))
    cost = measure(method, options.image_size, trainer.test_batch_size, device, trainer.precision)
    if form and form[-1] == "json":
        print(json.dumps({"method": composed.choices["method"], **cost.as_dict()}, indent=2))
    else:
        heading = f"{composed.choices['method']} at {cost.image_size}x{cost.image_size} on {cost.device}"
        print("\n".join([heading, *cost.lines()]))
    return 0
