"""``logger=wandb``: Weights & Biases, on-line or off-line."""

from __future__ import annotations

import secrets
from typing import Any

from ader.config.schema import WandbOptions
from ader.results.gallery import Gallery
from ader.system.text import clean
from ader.training.loggers import LoggedRun, Logger, Rows

#: wandb's own axis only grows; this one may begin again, as steps of a resumed run and of the next model do.
AXIS = "step"


class WandbLogger(Logger):
    """A run of wandb, found again by its id when the run is resumed.

    Args:
        options: where it is.
        run: is logged.
    """

    def __init__(self, options: WandbOptions, run: LoggedRun) -> None:
        self.options, self.run = options, run
        self.row: dict[str, Any] = {}
        self.remote: Any = None

    def start(self) -> None:
        """Begins a run, or goes on in the earlier one."""
        import wandb  # slow, and not there without the extra

        known = self.run.name_in("wandb")
        name = known or secrets.token_hex(8)
        options = self.options
        self.remote = wandb.init(
            id=name,
            resume="allow",
            project=options.project,
            entity=options.entity,
            mode=options.mode,
            group=options.group,
            tags=list(options.tags),
            name=clean(self.run.title),
            dir=self.run.folder,
            config=dict(self.run.config),
            # what is said and kept of a run is ader's to say and keep
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        if known is None:
            self.run.keep_name("wandb", name)
        self.remote.define_metric("*", step_metric=AXIS)

    def add(self, tag: str, value: float, step: int, model: str = "") -> None:
        """Values of one step and model go out together."""
        label = f"{model}/{tag}" if model else tag
        if self.row and (self.row[AXIS] != step or label in self.row):
            self._send()
        self.row |= {AXIS: step, label: value}

    def result(self, rows: Rows, gallery: Gallery | None) -> None:
        """The means as the run's summary, the table, and a list of pictures per category."""
        import wandb

        self._send()
        columns = list(next(iter(rows.values()), {}))
        table = wandb.Table(["category", *columns], [[clean(name), *row.values()] for name, row in rows.items()])
        media: dict[str, Any] = {"metrics": table}
        for entry in gallery.entries if gallery else ():
            caption = clean(f"{entry.why}: {entry.defect}, {entry.image}, score {entry.score}")
            picture = wandb.Image(str(gallery.path(entry)), caption=caption)  # type: ignore[union-attr]
            media.setdefault(f"gallery/{clean(entry.category)}", []).append(picture)
        self.remote.log(media)
        self.remote.summary.update(
            {f"mean/{slug}": value for slug, value in rows.get("mean", {}).items() if value is not None}
        )

    def close(self, done: bool) -> None:
        """Waits until all is sent."""
        self._send()
        self.remote.finish(exit_code=0 if done else 1)

    def _send(self) -> None:
        if self.row:
            row, self.row = self.row, {}
            self.remote.log(row)


def make(options: WandbOptions, run: LoggedRun) -> Logger:
    """A logger of a run."""
    return WandbLogger(options, run)
