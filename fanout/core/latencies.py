"""A histogram of durations that costs the same for a hundred samples and a hundred million. Pure."""

from __future__ import annotations

import math
from array import array
from typing import Final


class Latencies:
    """Histogram of seconds: buckets 2 % wide from 50 µs up; quantiles are right to within a bucket."""

    _LOWEST_S: Final = 50e-6
    _STEP: Final = math.log(1.02)

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * 800))  # the last bucket is beyond 6 minutes
        self.samples = 0

    def add(self, latency_s: float, samples: int = 1) -> None:
        """Count ``samples`` deliveries that took ``latency_s``."""
        steps = math.log(max(latency_s, self._LOWEST_S) / self._LOWEST_S) / self._STEP
        self._counts[min(int(steps), len(self._counts) - 1)] += samples
        self.samples += samples

    def quantile(self, share: float) -> float:
        """Return the latency in seconds that ``share`` (0 to 1) of the samples do not exceed; 0 without samples."""
        wanted = math.ceil(self.samples * share)
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return float(self._LOWEST_S * math.exp((index + 1) * self._STEP))
        return 0.0
