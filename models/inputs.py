"""What a model is given of flows, by the name of the form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.packet import Records
from models.features import Sight, flow_features, packet_sequence

__all__ = ["FORMS", "see"]

FORMS = {"columns": flow_features, "sequence": packet_sequence}
"""The forms of inputs, by the name that a bundle gives them."""


def see(
    form: str,
    packets: Records,
    offsets: npt.NDArray[np.int64],
    depth: int,
    sight: Sight,
    rows: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Return flows in a form that a model takes, float32; see the functions of :data:`FORMS`.

    Args:
        form: A key of :data:`FORMS`.
        packets: ``PACKET_DTYPE [m]``, by flow, each flow's in the order of ``packet_index``.
        offsets: Where each flow's packets begin, int64 ``[n + 1]``.
        depth: First packets that count; later ones are not looked at.
        sight: What is seen beyond the flow's headers.
        rows: Which flows, int64 ``[k]``; all when left out.
    """
    return FORMS[form](packets, offsets, depth, sight=sight, rows=rows)
