"""Benches: each prints its figures as one JSON object in its last line and exits 1 when an invariant does not hold."""
