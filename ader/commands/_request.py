"""What a command was asked: its words, divided into flags, a target and overrides; written once for all commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ader.system.errors import UserError, suggest

if TYPE_CHECKING:
    from ader.config.schema import Config

C = TypeVar("C", bound="Config")

FLAGS = ("--cfg", "--config-dir", "--help", "--version")


@dataclass(frozen=True)
class Request:
    """The words after a command's name.

    Attributes:
        command: as it was typed, for messages: ``ader eval``.
        words: without flags.
        cfg: print the composed configuration, and do nothing else.
        config_dir: a folder with further options.
        help: print how the command is used, and do nothing else.
    """

    command: str
    words: tuple[str, ...] = ()
    cfg: bool = False
    config_dir: str | None = None
    help: bool = False

    @classmethod
    def of(cls, command: str, words: Sequence[str]) -> Request:
        """Takes the flags out of the words.

        Raises:
            UserError: an unknown flag, or one that lacks its value.
        """
        taken, kept = cls(command), list[str]()
        rest = iter(words)
        for word in rest:
            if word in ("-h", "--help"):
                taken = replace(taken, help=True)
            elif word == "--cfg":
                taken = replace(taken, cfg=True)
            elif word.startswith("--config-dir"):
                folder = word.partition("=")[2] or next(rest, None)
                if not folder:
                    raise UserError("--config-dir needs a folder: --config-dir DIR")
                taken = replace(taken, config_dir=folder)
            elif word in ("-m", "--multirun"):
                raise UserError(f"{word}: this version has no sweeps yet: give one command per run")
            elif word.startswith("-"):
                raise UserError(f"{word} is not a flag: {suggest(word, FLAGS)}")
            else:
                kept.append(word)
        return replace(taken, words=tuple(kept))

    def take(self, what: str) -> tuple[Path, Request]:
        """The first word, which is a path, and the request without it.

        Args:
            what: what is missing if it is not there: ``"the run's folder is not given: ader eval RUN"``.

        Raises:
            UserError: it is not there.
        """
        if not self.words or ("=" in self.words[0] and not Path(self.words[0]).exists()):
            raise UserError(f"{what} [key=value ...] ({self.command} --help)")
        return Path(self.words[0]).expanduser(), replace(self, words=self.words[1:])

    def option(self, key: str, choices: Sequence[str]) -> tuple[str, Request]:
        """The value of a key that is the command's own and no part of the configuration, and the rest.

        Raises:
            UserError: it is none of the choices, of which the first is the default.
        """
        given = [word.partition("=")[2] for word in self.words if word.startswith(f"{key}=")]
        value = given[-1] if given else choices[0]
        if value not in choices:
            raise UserError(f"{key}={value} is not known: choose from {', '.join(sorted(choices))}")
        return value, replace(self, words=tuple(word for word in self.words if not word.startswith(f"{key}=")))

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

    def nothing_composed(self) -> None:
        """For commands without a configuration.

        Raises:
            UserError: ``--cfg`` was given.
        """
        if self.cfg:
            raise UserError(f"{self.command} composes no configuration: leave --cfg out")
