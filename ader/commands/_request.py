"""What a command was asked: its words, divided into flags, a target and overrides; written once for all commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ader.system.errors import UserError, suggest

if TYPE_CHECKING:
    from ader.config.schema import Config

C = TypeVar("C", bound="Config")

FLAGS = ("--cfg", "--config-dir", "--help", "--multirun", "--version")

#: What a run is typed as: the command without a name of its own.
RUN = "ader"

#: Flags that users of Hydra know, with what to do here instead.
OF_HYDRA = {
    ("-r", "--run"): "a run is what ader does without it: leave it out",
    ("-i", "--info"): "see --cfg for the configuration, ader doctor for the machine, ader list for the choices",
    ("-p", "--package"): "--cfg prints the whole configuration, and no part of it: leave it out",
    (
        "-cn",
        "--config-name",
    ): "what is composed follows from the command: choose experiment=NAME, or give --config-dir",
    ("-cp", "--config-path"): "give --config-dir DIR, a folder with options of your own",
    ("--experimental-rerun",): "the same command again resumes a run, or shows its result",
    ("-sc", "--shell-completion"): "there is no completion: ader --help and ader list show the choices",
    ("--hydra-help",): "Hydra only composes here: ader --help",
}


@dataclass(frozen=True)
class Request:
    """The words after a command's name.

    Attributes:
        command: as it was typed, for messages: ``ader eval``.
        words: without flags.
        cfg: print the composed configuration, and do nothing else.
        config_dir: a folder with further options.
        help: print how the command is used, and do nothing else.
        multirun: the words stand for many runs.
    """

    command: str
    words: tuple[str, ...] = ()
    cfg: bool = False
    config_dir: str | None = None
    help: bool = False
    multirun: bool = False

    @classmethod
    def of(cls, command: str, words: Sequence[str], own: Sequence[str] = ()) -> Request:
        """Takes the flags out of the words.

        Args:
            command: as it was typed.
            words: after its name.
            own: the command's own flags with a value; ``--out DIR`` becomes ``out=DIR``.

        Raises:
            UserError: an unknown flag, or one that lacks its value.
        """
        taken, kept, resolve = cls(command), list[str](), False
        rest = _Words(words)
        for word in rest:
            flag, equals, value = word.partition("=") if word.startswith("-") else (word, "", "")
            if word in ("-h", "--help"):
                taken = replace(taken, help=True)
            elif word in ("-m", "--multirun"):
                if command != RUN:
                    raise UserError(f"{word} is for runs, as in ader -m method=rd,invad seed=1,2: {command} has none")
                taken = replace(taken, multirun=True)
            elif flag in ("-c", "--cfg"):
                _check_kind(value if equals else rest.take("job", "hydra", "all"), flag, bool(equals))
                taken = replace(taken, cfg=True)
            elif flag in ("-cd", "--config-dir"):
                folder = value if equals else next(rest, "")
                if not folder:
                    raise UserError("--config-dir needs a folder: --config-dir DIR")
                taken = replace(taken, config_dir=folder)
            elif flag.startswith("--") and flag[2:] in own:
                given = value if equals else next(rest, "")
                if not given:
                    raise UserError(f"{flag} needs a value: {flag} {flag[2:].upper()}")
                kept.append(f"{flag[2:]}={given}")
            elif word == "--resolve":
                resolve = True
            elif word.startswith("-"):
                raise UserError(_refusal(word, flag, own))
            else:
                kept.append(word)
        if resolve and not taken.cfg:
            raise UserError("--resolve goes with --cfg, which prints resolved values anyway: leave it out")
        return replace(taken, words=tuple(kept))

    def take(self, what: str) -> tuple[Path, Request]:
        """The first word, which is a path, and the request without it.

        Args:
            what: what is missing if it is not there: ``"the run's folder is not given: ader eval RUN"``.

        Raises:
            UserError: it is not there, or cannot be a path.
        """
        try:
            if not self.words or ("=" in self.words[0] and not Path(self.words[0]).exists()):
                raise UserError(f"{what} [key=value ...] ({self.command} --help)")
            return Path(self.words[0]).expanduser(), replace(self, words=self.words[1:])
        except (OSError, RuntimeError) as error:  # too long a name, no such user
            raise UserError(f"{self.words[0][:200]!r} is no path ({error})") from error

    def paths(self) -> tuple[list[Path], Request]:
        """The words that are paths and no ``key=value``, and the request without them.

        Raises:
            UserError: one cannot be a path.
        """
        try:
            found = [word for word in self.words if "=" not in word or Path(word).exists()]
            paths = [Path(word).expanduser() for word in found]
        except (OSError, RuntimeError) as error:  # too long a name, no such user
            raise UserError(f"a word is no path ({error})") from error
        return paths, replace(self, words=tuple(word for word in self.words if word not in found))

    def option(self, key: str, choices: Sequence[str]) -> tuple[str, Request]:
        """The value of a key that is the command's own and no part of the configuration, and the rest.

        Raises:
            UserError: it is none of the choices, of which the first is the default.
        """
        given, rest = self.value(key)
        value = choices[0] if given is None else given
        if value not in choices:
            raise UserError(f"{key}={value} is not known: choose from {', '.join(sorted(choices))}")
        return value, rest

    def value(self, key: str) -> tuple[str | None, Request]:
        """The value of a key that is the command's own, None where it is not given, and the rest."""
        given = [word.partition("=")[2] for word in self.words if word.startswith(f"{key}=")]
        rest = tuple(word for word in self.words if not word.startswith(f"{key}="))
        return given[-1] if given else None, replace(self, words=rest)

    def folder(self) -> Path | None:
        """``--config-dir``, absolute, its files vetted; None without it.

        Raises:
            UserError: there is no such folder, or one of its files cannot be read.
        """
        if self.config_dir is None:
            return None
        from ader.config.foreign import vetted

        return vetted(self.config_dir)

    def compose(self, config_class: type[C]) -> C | None:
        """The configuration that the words compose; None when ``--cfg`` asked for no more than to print it.

        Raises:
            UserError: anything wrong with the words.
        """
        from ader.config.compose import compose_as

        return self.show(compose_as(config_class, self.words, self.config_dir))

    def show(self, config: C) -> C | None:
        """Prints the configuration if that is what was asked for; else gives it back."""
        if not self.cfg:
            return config
        print(config.composition.as_yaml(), end="")
        return None

    def nothing_composed(self, config_dir: bool = False) -> None:
        """For commands without a configuration.

        Args:
            config_dir: whether the command takes ``--config-dir`` all the same.

        Raises:
            UserError: ``--cfg`` was given, or ``--config-dir`` for nothing.
        """
        if self.cfg:
            raise UserError(f"{self.command} composes no configuration: leave --cfg out")
        if self.config_dir is not None and not config_dir:
            raise UserError(f"{self.command} composes no configuration: leave --config-dir out")


class _Words(Iterator[str]):
    """Words, the next of which can be looked at."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [*words]

    def __next__(self) -> str:
        if not self.words:
            raise StopIteration
        return self.words.pop(0)

    def take(self, *choices: str) -> str:
        """The next word if it is one of these, else an empty text."""
        return self.words.pop(0) if self.words and self.words[0] in choices else ""


def _check_kind(kind: str, flag: str, given: bool) -> None:
    """``--cfg`` alone is ``--cfg job``."""
    if kind != "job" and (kind or given):
        raise UserError(f"{flag} {kind}: Hydra only composes here, so that there is no such part: {flag} job")


def _refusal(word: str, flag: str, own: Sequence[str]) -> str:
    for flags, instead in OF_HYDRA.items():
        if flag in flags:
            return f"{flag}: {instead}"
    return f"{word} is not a flag: {suggest(flag, (*FLAGS, *(f'--{name}' for name in own)))}"
