"""The command line. Heavy imports happen only where they are needed: help must answer at once."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from ader import __version__
from ader.system.errors import UserError, suggest
from ader.system.interrupt import Stopped

COMMANDS = {
    "list": "listing",
    "doctor": "doctor",
    "profile": "profile",
    "eval": "eval",
    "score": "score",
    "data": "data",
}

#: Commands with a help text of their own.
USAGES = ("eval", "score", "data")

HELP = """\
ader {version}: benchmark runner for visual anomaly detection

  ader dataset=NAME method=NAME [key=value ...]
      one run: trains for a fixed number of epochs, evaluates after the last one, writes
      per-category tables. The same command again resumes it, or shows the finished result.
  ader eval RUN [key=value ...] evaluates a finished run's model again: metric=ader, save_maps=true ...
  ader score MAPS dataset=NAME  evaluates anomaly maps that any program saved
  ader data check dataset=NAME  everything that is wrong with a dataset's files
  ader data prepare dataset=NAME  unpacks, downloads or converts a dataset, or says where to get it
  ader experiment=NAME          a named run that differs from its defaults (ader list experiments)
  ader list KIND                methods, datasets, metrics, settings, trainers or experiments
  ader profile method=NAME      parameters, multiply-accumulates, memory, speed [format=json]
  ader doctor                   what this machine lacks, and how to get it
  ader --cfg dataset=... ...    the composed configuration, without running it
  ader eval --help, ader score --help, ader data --help

choices
{choices}

often used
  dataset.root=DIR  dataset.categories=[a,b]  image_size=256  seed=42
  trainer.epochs=N  trainer.max_steps=N  trainer.device=auto|cpu|cuda:1  trainer.workers=N
  trainer.precision=fp32|tf32|bf16  recipe=official (a method's other recipe: ader list methods)
  method.backbone.name=NAME.TAG  method.backbone.pretrained=false
  metric.size=input|original|N  metric.by_defect=true
  dataset.cache=auto|on|off  save_maps=true  force=true  run=NAME
  paths.data=DIR  paths.results=DIR  paths.weights=DIR
  --config-dir DIR              a folder with options of your own

exit status: 0 done; 2 something for you to fix, said in one line; 1 anything else
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except UserError as error:
        return _fail(2, f"error: {error}")
    except Stopped as error:
        return _fail(1, str(error))
    except KeyboardInterrupt:
        return _fail(1, "interrupted")
    except BrokenPipeError:  # the reader of our output has left, as in `ader list methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(1, f"unexpected {type(error).__name__}: {error}", traceback.format_exc())


def _fail(status: int, message: str, trace: str = "") -> int:
    """Says why on stderr: once, also when torchrun started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ader.system import dist

        if not dist.speaks():
            return status
    print(f"{trace}ader: {message}", file=sys.stderr, flush=True)
    return status


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else "help"
    helping = name == "help" or bool({"-h", "--help"} & set(words))
    if helping and name not in USAGES:
        print(help_text())
    elif name == "--version":
        print(__version__)
    elif name in COMMANDS:
        command = importlib.import_module(f"ader.commands.{COMMANDS[name]}")
        if not helping:
            return int(command.main(words[1:]))
        print(command.USAGE, end="")
    elif "=" not in name and not name.startswith(("-", "~")):
        raise UserError(f"{name!r} is neither a command nor key=value: {suggest(name, COMMANDS)}")
    else:
        _run(words)
    return 0


def _run(words: list[str]) -> None:
    from ader.config.compose import compose, take_flags

    flags, overrides = take_flags(words)
    composed = compose(overrides, flags.config_dir)
    if flags.cfg:
        print(composed.as_yaml(), end="")
        return
    from ader.runs.run import run

    run(composed)


def help_text() -> str:
    """What ``ader --help`` prints; the choices are read from the config folder."""
    from textwrap import fill

    from ader.config.options import GROUPS, options

    lines = []
    for group in GROUPS:
        names = ", ".join(options(group)) or "(none)"
        lines.append(fill(names, 100, initial_indent=f"  {group + '=':<13}", subsequent_indent=15 * " "))
    return HELP.format(version=__version__, choices="\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
