"""``logger=mlflow``: MLflow, on a server, in a database or in a folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ader.config.schema import MlflowOptions
from ader.results.gallery import Gallery
from ader.system.text import clean
from ader.training.loggers import LoggedRun, Logger, Rows

#: What a server takes at once: metrics, and parameters of a run and their characters.
METRICS, PARAMS, LONGEST = 1000, 100, 500
#: Seconds that values wait for each other: each request to a server takes its time.
SECONDS = 5.0
#: How long a run waits for a server that is away, in MLflow's own variables: a minute and not a quarter of an hour.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MlflowLogger(Logger):
    """A run of MLflow, found again by its id when the run is resumed.

    Args:
        options: where it is.
        run: is logged.
    """

    def __init__(self, options: MlflowOptions, run: LoggedRun) -> None:
        self.options, self.run = options, run
        self.waiting: list[Any] = []
        self.sent = time.monotonic()
        self.client: Any = None
        self.id = ""

    def start(self) -> None:
        """Begins a run, or goes on in the earlier one."""
        from mlflow.exceptions import MlflowException  # slow, and not there without the extra
        from mlflow.tracking import MlflowClient

        uri = self.options.uri or os.environ.get("MLFLOW_TRACKING_URI") or str(self.run.results / "mlruns")
        if "://" not in uri and uri != "databricks":
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer ones ask whether a folder is meant
            uri = f"file://{os.path.abspath(os.path.expanduser(uri))}"
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        self.client = MlflowClient(tracking_uri=uri)
        known = self.run.name_in("mlflow")
        if known is not None:
            try:
                self.client.update_run(known, status="RUNNING")
                self.id = known
                return
            except MlflowException:  # it is not there: begun again
                pass
        experiment = self.client.get_experiment_by_name(self.options.experiment)
        number = experiment.experiment_id if experiment else self.client.create_experiment(self.options.experiment)
        self.id = self.client.create_run(number, run_name=clean(self.run.title)).info.run_id
        self.run.keep_name("mlflow", self.id)
        self._describe()

    def add(self, tag: str, value: float, step: int, model: str = "") -> None:
        """Values go out together, a few seconds after the first."""
        self._wait(f"{model}/{tag}" if model else tag, value, step)
        if len(self.waiting) >= METRICS or time.monotonic() - self.sent > SECONDS:
            self._send()

    def result(self, rows: Rows, gallery: Gallery | None) -> None:
        """Every value of the table as a metric, the tables and pictures as files."""
        for name, row in rows.items():
            for slug, value in row.items():
                if value is not None:
                    self._wait(f"{name}/{slug}", value, 0)
        self._send()
        for file in ("metrics.csv", "bounds.csv", "record.json"):
            self.client.log_artifact(self.id, str(self.run.folder / file))
        if gallery is not None:
            self.client.log_artifacts(self.id, str(gallery.folder), "gallery")

    def close(self, done: bool) -> None:
        """Sends what waits."""
        self._send()
        self.client.set_terminated(self.id, "FINISHED" if done else "KILLED")

    def _describe(self) -> None:
        from mlflow.entities import Param

        values = [Param(name[:250], str(value)[:LONGEST]) for name, value in flat(self.run.config)]
        for first in range(0, len(values), PARAMS):
            self.client.log_batch(self.id, params=values[first : first + PARAMS])

    def _wait(self, name: str, value: float, step: int) -> None:
        from mlflow.entities import Metric

        self.waiting.append(Metric(allowed(name), float(value), int(time.time() * 1000), step))

    def _send(self) -> None:
        while self.waiting:
            part, self.waiting = self.waiting[:METRICS], self.waiting[METRICS:]
            self.client.log_batch(self.id, metrics=part)
        self.sent = time.monotonic()


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values, as parameters' names may be."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield re.sub(r"[^\w\-. /]", "_", f"{prefix}{key}"), value


def allowed(name: str) -> str:
    """A name of a metric, which is a path: MLflow refuses most signs, and parts such as ``..``."""
    parts = (re.sub(r"[^\w\- ]|^\.+$", "_", part) for part in name.split("/"))
    return "/".join(part or "_" for part in parts)


def make(options: MlflowOptions, run: LoggedRun) -> Logger:
    """A logger of a run."""
    return MlflowLogger(options, run)
