"""What a Ray cluster has at this moment: room for workers, and nodes about to be taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster, as one look at them found.

    Attributes:
        workers: How many workers there is room for.
        beside: How many workers without a GPU fit beside them.
        alive: Ids of the nodes that are there.
        leaving: Of them, those that Ray has announced it will lose; they have no room.
    """

    workers: int
    beside: int
    alive: frozenset[str]
    leaving: frozenset[str]


def look(ray: Any, *, threads: int, gpus: float) -> Nodes:
    """Look at a cluster.

    Spot pre-emptions, and nodes that an autoscaler or ``ray drain-node`` takes away, are
    announced some time before; nothing new is placed on such a node.

    Args:
        ray: The ``ray`` module, connected.
        threads: CPUs of one worker.
        gpus: GPUs of one worker.

    Returns:
        What is there.
    """
    # what Ray's own libraries read; there is no public call for it
    leaving = frozenset(ray._private.state.state.get_draining_nodes())
    workers = beside = 0
    alive = set()
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        alive.add(node["NodeID"])
        if node["NodeID"] in leaving:
            continue
        cpus = int(node["Resources"].get("CPU", 0) // threads)
        here = min(cpus, int(node["Resources"].get("GPU", 0) / gpus)) if gpus else cpus
        workers += here
        beside += cpus - here
    return Nodes(workers, beside, frozenset(alive), leaving & alive)
