"""Points of the pixel curves (ROC, precision-recall, PRO), as many as a figure needs.

Letters: K bins, O chosen points.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ader.metrics.curves import Array, Bins

#: Columns of a table of points; all but the threshold are fractions.
COLUMNS = ("threshold", "fpr", "tpr", "precision", "pro")

#: Rates that the points come near to: false positive rates, also tiny ones, where PRO rises; and true ones.
FALSE_RATES = np.unique(np.concatenate([np.geomspace(1e-5, 0.3, 25), np.linspace(0, 1, 11)]))
TRUE_RATES = np.linspace(0, 1, 26)


def operating_points(bins: Bins) -> Array | None:
    """Points of the curves (O, 5), with ``COLUMNS``, from the highest threshold to the lowest.

    Each is exact: what is found at a score of ``threshold`` or more, which is the lower edge of a bin. Chosen are, for
    some thirty false positive rates and as many true ones, in pixels and in regions, the bins on both sides. All bins
    are there if there are no more than that.

    Args:
        bins: of the pixels of one category.

    Returns:
        None where a kind of pixel is missing.
    """
    if not bins.positives or not bins.negatives:
        return None
    fpr_K, tpr_K = bins.fp_K / bins.negatives, bins.tp_K / bins.positives
    total = bins.weight_K.sum()
    pro_K = np.cumsum(bins.weight_K) / total if total else np.full_like(tpr_K, np.nan)
    chosen = [0, len(fpr_K) - 1]
    for rate_K, wanted in ((fpr_K, FALSE_RATES), (tpr_K, TRUE_RATES), (pro_K, TRUE_RATES)):
        chosen += [*np.minimum(np.searchsorted(rate_K, wanted - 1e-12, side="left"), len(rate_K) - 1).tolist()]
        chosen += [*np.maximum(np.searchsorted(rate_K, wanted, side="right") - 1, 0).tolist()]
    place_O: npt.NDArray[np.int64] = np.unique(chosen)
    precision_K = bins.tp_K / np.maximum(bins.tp_K + bins.fp_K, 1)
    return np.stack([each[place_O] for each in (bins.low_K, fpr_K, tpr_K, precision_K, pro_K)], axis=1)
