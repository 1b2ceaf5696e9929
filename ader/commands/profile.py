"""``ader profile``: what a method costs."""

from __future__ import annotations

import json
from dataclasses import replace

from ader.commands._request import Request

SUMMARY = "ader profile method=NAME       parameters, multiply-accumulates, memory, speed [format=json]"

USAGE = """\
ader profile method=NAME [key=value ...]

What a method costs: builds it without pretrained weights, trains and tests it on random images for a
few steps, and prints parameters, multiply-accumulates, peak memory and images per second. What it is at,
which may take minutes on a processor, goes to standard error.

  image_size=256  trainer.device=auto|cpu|cuda:1  trainer.precision=fp32|torch|tf32|bf16
  trainer.test_batch_size=16  method.batch_size=N  recipe=NAME
  format=text|json              json: the same for programs
  --config-dir DIR              a folder with options of your own
  --cfg                         print the composed configuration
"""


def main(request: Request) -> int:
    """Builds a method, trains and tests it on random images for a few steps, and prints its cost."""
    form, request = request.option("format", ("text", "json"))
    if not {word.partition("=")[0] for word in request.words} & {"dataset", "experiment"}:
        # only to complete the configuration: no image is read
        request = replace(request, words=(*request.words, "dataset=demo"))
    from ader.config.schema import RunConfig

    config = request.compose(RunConfig)
    if config is None:
        return 0
    from rich.console import Console as RichConsole

    from ader.config.validate import without_weights
    from ader.methods._base import find_class, recipe_arguments
    from ader.system.console import Console
    from ader.system.device import resolve_device
    from ader.system.precision import set_precision
    from ader.system.randomness import seed_all
    from ader.training.cost import measure

    trainer, name = config.trainer, config.composition.choices["method"]
    device = resolve_device(trainer.device)
    set_precision(trainer.precision)
    seed_all(config.seed)
    console = Console()
    console.rich = RichConsole(stderr=True, highlight=False, soft_wrap=True)  # the cost alone goes to standard output
    console.say(f"building {name}")
    method_class = find_class(config.method.name)
    method = method_class(**recipe_arguments(method_class, config.image_size, without_weights(config.method.rest)))
    cost = measure(method, config.image_size, trainer.test_batch_size, device, trainer.precision, console=console)
    if form == "json":
        print(json.dumps({"method": name, **cost.as_dict()}, indent=2))
    else:
        heading = f"{name} at {cost.image_size}x{cost.image_size} on {cost.device}"
        print("\n".join([heading, *cost.lines()]))
    return 0
