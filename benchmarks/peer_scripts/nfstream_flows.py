"""Flows of a capture with nfstream: ``CAPTURE``. Prints one JSON object.

As its documentation shows it, with statistics, and one metering process, so that it is one core's
rate.
"""

from __future__ import annotations

import json
import sys

from nfstream import NFStreamer


def main() -> None:
    """Count flows and packets."""
    flows = packets = 0
    for flow in NFStreamer(source=sys.argv[1], statistical_analysis=True, n_meters=1):
        flows += 1
        packets += flow.bidirectional_packets
    sys.stdout.write(json.dumps({"flows": flows, "packets": packets}) + "\n")


if __name__ == "__main__":
    main()
