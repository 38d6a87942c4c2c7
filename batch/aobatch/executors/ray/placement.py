"""How many CPUs a worker gets, from what the nodes have."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker takes of its node."""

    cpus: int
    workers_per_node: int
    """On the largest node, at most."""


def share(node_cpus: Sequence[float], num_workers: int, cpus: int | None = None) -> Share:
    """Give each worker as many CPUs as leave room for all workers; `cpus`, if it is given."""
    sizes = [int(size) for size in node_cpus if size >= 1] or [1]
    if cpus is None:
        fitting = range(max(sizes), 0, -1)
        cpus = next((c for c in fitting if sum(size // c for size in sizes) >= num_workers), 1)
    return Share(cpus, max(1, min(num_workers, max(sizes) // cpus)))
