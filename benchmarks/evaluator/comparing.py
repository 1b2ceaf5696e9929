"""All competitors at one size, each in a process of its own, and what follows: speed, ratios, errors, bounds."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.evaluator.competitors import COMPETITORS, SLUGS, Values
from benchmarks.evaluator.measuring import Spec

Row = dict[str, Any]  # figures of a competitor, or its "problem"

CHECK_TOLERANCE = 1e-9  # metric=exact against scikit-learn
SLACK = 1e-10  # the exact evaluation's own rounding, when bounds are checked
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def start_worker(spec: Spec) -> Row:
    """What ``measuring.answer`` says in a process of its own; a failure is an answer too."""
    environment = dict(os.environ)
    if spec.row in COMPETITORS:
        environment |= COMPETITORS[spec.row].environment
    if spec.threads is not None:
        environment |= dict.fromkeys(THREAD_VARIABLES, str(spec.threads))
    command = [sys.executable, "-m", "benchmarks.evaluator", "--worker", json.dumps(asdict(spec))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        result: Row = json.loads(done.stdout.splitlines()[-1])
        return result
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return {"problem": f"failed: {said[-1] if said and done.returncode > 0 else f'status {done.returncode}'}"}


def compare(specs: Sequence[Spec], scale: int) -> dict[str, Any]:
    """All competitors at one size, with ratios and errors; a line on stderr for each.

    Raises:
        SystemExit: there are no exact values, or a competitor had other data.
    """
    truth = start_worker(replace(specs[0], row="reference"))
    if "problem" in truth:
        sys.exit(f"the exact values could not be computed: {truth['problem']}")
    rows: dict[str, Row] = {}
    for spec in specs:
        row = rows[spec.row] = start_worker(spec)
        if "problem" not in row:
            if row["checksum"] != truth["checksum"]:
                sys.exit(f"{spec.row}: other data than the exact values")
            row |= derive(row, row.pop("exact", truth["values"]))
        said = row.get("problem") or f"{row['seconds']:.3f} s for {row['images']} of {spec.images} images"
        print(f"{scale}x {spec.row}: {said}", file=sys.stderr, flush=True)
    for name, row in rows.items():
        rival = rows.get("adeval-1000-cuda" if COMPETITORS[name].cuda else "adeval-1000", {})
        if "ns_per_pixel" in row and "ns_per_pixel" in rival:
            row["ratio_adeval"] = row["ns_per_pixel"] / rival["ns_per_pixel"]
    return {"scale": scale, "images": specs[0].images, "check": truth["check"], "exact": truth["values"], "rows": rows}


def derive(row: Row, exact: Values) -> Row:
    """Speed, ratios to the copy, errors and whether bounds hold."""
    ns = row["seconds"] / row["pixels"] * 1e9
    pixels = row["bytes"] / 5  # 4 of the map, 1 of the mask
    found: Row = {"ns_per_pixel": ns, "megapixels_per_second": 1e3 / ns}
    for kind in ("fresh", "existing"):
        found[f"copy_{kind}_ns"] = row[f"copy_{kind}_seconds"] / pixels * 1e9
        found[f"ratio_copy_{kind}"] = ns / found[f"copy_{kind}_ns"]
    errors = largest_errors(row["values"], exact)
    bounds = [bound for each in row["bounds"].values() for bound in each.values() if not math.isnan(bound)]
    return found | {
        "errors": errors,
        "error": max(errors.values(), default=None),
        "bound": max(bounds, default=None),
        "broken_bounds": broken_bounds(row["values"], row["bounds"], exact),
    }


def largest_errors(values: Values, exact: Values) -> dict[str, float]:
    """Largest error over the categories, of each slug that all of them have."""
    return {
        slug: float(np.max([abs(value[slug] - exact[name][slug]) for name, value in values.items()]))
        for slug in SLUGS
        if values and all(slug in value for value in values.values())
    }


def broken_bounds(values: Values, bounds: Values, exact: Values) -> list[str]:
    """Which values are further from the exact ones than was certified."""
    return [
        f"{slug} of {name}"
        for name, each in bounds.items()
        for slug, bound in each.items()
        if abs(values[name][slug] - exact[name][slug]) > bound + SLACK
    ]


def sound(size: dict[str, Any]) -> bool:
    """Whether the exact values agree with other code (where there is any) and all bounds hold."""
    agrees = isinstance(size["check"], str) or max(size["check"].values()) <= CHECK_TOLERANCE
    return agrees and not any(row.get("broken_bounds") for row in size["rows"].values())
