"""What a night has cost so far, and whether that is enough."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from system.pipelines.nightly.config import BudgetConfig


def nodes_alive() -> int:
    """Machines of the cluster that this process is connected to; 1 where it is connected to none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 1
    return max(1, sum(bool(node["Alive"]) for node in ray.nodes()))


class BudgetMeter:
    """Counts hours, and node-hours at their price, between the moments at which it is asked."""

    def __init__(
        self,
        config: BudgetConfig,
        clock_s: Callable[[], float] = time.monotonic,
        nodes: Callable[[], int] = nodes_alive,
    ) -> None:
        self._config, self._clock_s, self._nodes = config, clock_s, nodes
        self._started_s = self._counted_s = clock_s()
        self._node_hours = 0.0
        self.spent: str | None = None

    def is_spent(self) -> bool:
        """Ask after every batch and while none comes. `spent` then says of what there is no more."""
        now_s = self._clock_s()
        self._node_hours += (now_s - self._counted_s) / 3600 * self._nodes()
        self._counted_s = now_s
        hours = (now_s - self._started_s) / 3600
        config = self._config
        if config.hours is not None and hours >= config.hours:
            self.spent = self.spent or f"{config.hours:g} hours"
        if config.money is not None and (self.cost or 0.0) >= config.money:
            self.spent = self.spent or f"{config.money:g} of money ({self._node_hours:.1f} node-hours)"
        return self.spent is not None

    @property
    def cost(self) -> float | None:
        """Up to the last time it was asked; None without a price."""
        price = self._config.price_per_hour
        return None if price is None else self._node_hours * price
