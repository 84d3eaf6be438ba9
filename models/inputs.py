"""What a model is given of flows, by the name of the form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flows.packet import Records
from models.bits import PACKET_BITS, packet_bits
from models.features import Sight, feature_names, flow_features, packet_sequence

__all__ = ["FORMS", "columns_of", "needs_header", "see"]

FORMS = {"columns": flow_features, "sequence": packet_sequence, "bits": packet_bits}
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
        packets: ``PACKET_DTYPE [m]``, by flow, each flow's in the order of ``packet_index``; for a
            form that needs their headers' bytes ``packet_dtype(True)``.
        offsets: Where each flow's packets begin, int64 ``[n + 1]``.
        depth: First packets that count; later ones are not looked at.
        sight: What is seen beyond the flow's headers.
        rows: Which flows, int64 ``[k]``; all when left out.
    """
    return FORMS[form](packets, offsets, depth, sight=sight, rows=rows)


def columns_of(form: str, depth: int, sight: Sight) -> int:
    """Return how many columns a form has; 0: it is a sequence of packets.

    Args:
        form: A key of :data:`FORMS`.
        depth: First packets that count.
        sight: What is seen beyond the flow's headers.
    """
    if form == "bits":
        return depth * PACKET_BITS
    return 0 if form == "sequence" else len(feature_names(depth, sight))


def needs_header(form: str) -> bool:
    """Tell whether a form shows the packets' header bytes (:func:`flows.packet.packet_dtype`)."""
    return form == "bits"
