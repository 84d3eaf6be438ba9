"""Edge collectors: packets in, batches out, verdicts kept. No Ray, no torch."""
