"""The command line. Heavy imports happen only where they are needed: help must answer at once."""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from types import FrameType, ModuleType

from ader import __version__, commands
from ader.commands._request import Request
from ader.system.errors import UserError, is_utf8, suggest
from ader.system.files import WriteError
from ader.system.interrupt import Stopped
from ader.system.launch import processes, tell_why
from ader.system.text import clean

HELP = """\
ader {version}: benchmark runner for visual anomaly detection

{summaries}
  ader COMMAND --help           more of a command: ader eval --help, ader data --help ...
  ader method=NAME --help       a method's arguments and recipes
  --cfg, after any of them      the composed configuration, without doing anything

choices
{choices}

often used
  dataset.root=DIR  'dataset.categories=[a,b]'  image_size=256  seed=42
  trainer.epochs=N  trainer.max_steps=N  trainer.device=auto|cpu|cuda:1  trainer.workers=N
  trainer.precision=fp32|torch|tf32|bf16  recipe=official (a method's other recipe: ader list methods)
  method.backbone.name=NAME.TAG  method.backbone.pretrained=false
  metric.size=input|original|N  metric.by_defect=true
  dataset.cache=auto|on|off  save_maps=true  gallery=off|worst|all  force=true  run=NAME
  'logger=[csv,wandb,mlflow]'
  paths.data=DIR  paths.results=DIR  paths.weights=DIR
  --config-dir DIR              a folder with options of your own
with ader -m: dry_run=true  preflight=true  retry=failed  launcher.slots=N  launcher.gpus=[0,1]  launcher.hours=H

exit status: 0 done; 2 something for you to fix, said in one line; 1 anything else
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a character that the terminal lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        _refuse_bytes(words)
        return _dispatch(words)
    except UserError as error:
        return _fail(2, f"error: {error}", error.kind)
    except Stopped as error:
        return _fail(1, str(error), error.kind)
    except KeyboardInterrupt:
        return _fail(1, "interrupted", "stopped")
    except WriteError as error:
        return _fail(2, f"error: {error.advice}", UserError.kind)
    except BrokenPipeError:  # the reader of our output has left, as in `ader list methods | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(1, f"unexpected {type(error).__name__}: {error}", Stopped.kind, traceback.format_exc())


def _refuse_bytes(words: Sequence[str]) -> None:
    """Names of another encoding cannot be kept in records and tables.

    Raises:
        UserError: a word, the working directory or a folder in the environment is not UTF-8.
    """
    folders = [value for name, value in os.environ.items() if name.startswith("ADER_")]
    try:
        here = os.getcwd()
    except OSError as error:
        raise UserError(f"the working directory is gone ({error.strerror}): go to another one") from error
    for text in (*words, *folders, here):
        if not is_utf8(text):
            raise UserError(f"{text!r} is not UTF-8: rename that file or folder")


def _quit(number: int, frame: FrameType | None) -> None:
    """Ctrl-C before a run has begun ends it at once: an exception in the midst of imports may be swallowed there."""
    os.write(2, b"ader: interrupted\n")
    os._exit(1)


def _fail(status: int, message: str, kind: str, trace: str = "") -> int:
    """Says why on stderr: once, also when torchrun started several processes; and to the sweep that asked for it."""
    tell_why(kind, message)
    speaking = True
    if processes() > 1:
        from ader.system import dist

        speaking = dist.last_word(message)
    if speaking:
        print(clean(f"{trace}ader: {message}"), file=sys.stderr, flush=True)
    if processes() > 1:  # the others wait for the end, which takes seconds if everything is tidied up
        sys.stdout.flush()
        os._exit(status)
    return status


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else "help"
    known = command_names()
    if name in known:
        command = _command(name)
        request = Request.of(f"ader {name}", words[1:], getattr(command, "FLAGS", ()))
        if request.help:
            print(command.USAGE, end="")
            return 0
        return int(command.main(request))
    if name == "--version":
        print(__version__)
        return 0
    if name == "help" or {"-h", "--help"} & set(words):
        return _help(Request.of("ader", words))
    if "=" not in name and not name.startswith(("-", "~")):
        raise UserError(f"{name!r} is neither a command nor key=value: {suggest(name, known)}")
    return int(_command("_run").main(Request.of("ader", words)))


def _help(request: Request) -> int:
    """General help, that of sweeps, or that of the method that is named."""
    folder, method = request.folder(), [word for word in request.words if word.startswith("method=")]
    if request.multirun:
        print(_command("sweep").USAGE, end="")
    elif method:
        importlib.import_module("ader.commands.list").explain(method[-1].partition("=")[2], folder)
    else:
        print(help_text(folder), end="")
    return 0


def command_names() -> list[str]:
    """The commands: modules of ``ader.commands``, whose name begins with no underscore."""
    return sorted(info.name for info in pkgutil.iter_modules(commands.__path__) if not info.name.startswith("_"))


def _command(name: str) -> ModuleType:
    return importlib.import_module(f"ader.commands.{name}")


def help_text(config_dir: Path | None = None) -> str:
    """What ``ader --help`` prints: put together from the commands' summaries and the options of the config folders."""
    from textwrap import fill, indent

    from ader.config.options import GROUPS, options

    summaries = [_command(name).SUMMARY.strip() for name in ("_run", *command_names())]
    choices = []
    for group in GROUPS:
        names = ", ".join(options(group, config_dir)) or "(none)"
        choices.append(fill(names, 100, initial_indent=f"  {group + '=':<13}", subsequent_indent=15 * " "))
    return HELP.format(version=__version__, summaries=indent("\n".join(summaries), "  "), choices="\n".join(choices))


if __name__ == "__main__":
    sys.exit(main())
