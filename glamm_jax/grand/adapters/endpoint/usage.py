"""What the requests to an endpoint took: tokens, retries, seconds, money."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from glamm_jax.errors import ConfigError

MILLION = 1_000_000
# Counts of `UsageMeter.take`, in order.
USAGE_COUNTS = (
    "requests", "retries", "failures", "prompt_tokens", "completion_tokens", "seconds", "cost",
)  # fmt: skip


@dataclass(frozen=True)
class TokenPrices:
    """Prices of a million tokens, in any currency.

    Attributes:
        prompt: of tokens that are read.
        completion: of tokens that are written.
    """

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < float("inf"):
                raise ConfigError(f"price_{name} = {value!r} is not a price")


class UsageMeter:
    """Counts of several threads."""

    def __init__(self, prices: TokenPrices):
        """Begin with zeros.

        Args:
            prices: of tokens; without prices there is no cost.
        """
        self._prices = prices
        self._lock = threading.Lock()
        self._counts: dict[str, float] = {}

    def add(self, counts: Mapping[str, float]) -> None:
        """Add counts by their names."""
        with self._lock:
            for name, number in counts.items():
                self._counts[name] = self._counts.get(name, 0) + number

    def take(self) -> dict[str, float]:
        """Return the counts since the last call; {} if there was no request."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return {}
        prices = self._prices
        if prices.prompt or prices.completion:
            counts["cost"] = (
                counts.get("prompt_tokens", 0) * prices.prompt
                + counts.get("completion_tokens", 0) * prices.completion
            ) / MILLION
        return {name: round(counts[name], 6) for name in USAGE_COUNTS if name in counts}
