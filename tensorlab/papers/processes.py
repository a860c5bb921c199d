"""One program run by several processes that `torchrun` has started: all measure the same rows, or
each measures some of them; the first one prints and writes.

    torchrun --nproc-per-node 4 -m tensorlab run Novikov2015 --preset full
    torchrun --nproc-per-node 4 -m tensorlab run Novikov2015 --preset full --share rows

Programs compute on the CPU, so the group is one of gloo.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed as dist

from ..layers.holding import in_processes
from ..models.training import each_alone

PATIENCE = timedelta(days=7)  # for one that measures longer; of one that dies torchrun stops all
SHARES = ("batches", "rows")


def started() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def group() -> Iterator[None]:
    """In the block the processes that torchrun has started are one group; where it has started
    none, or there is a group, all stays as it is."""
    if in_processes() or not started():
        yield
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
        dist.barrier()  # none takes its part of the group apart while another needs it
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 where there is one.

    >>> rank()
    0
    """
    return dist.get_rank() if in_processes() else 0


def told(share: str, at_once: bool) -> str:
    """What several processes do, in one sentence; nothing where there is one.

    share: "batches" or "rows". at_once: whether no row depends on those before.

    >>> told("rows", True)
    ''
    """
    if not in_processes():
        return ""
    ranks = dist.get_world_size()
    if share == "batches":
        return (
            f"{ranks} processes share each batch of a training; its numbers are those of one "
            f"process to rounding, which a training may magnify, with --share rows to the last bit."
        )
    if at_once:
        return f"{ranks} processes share out the rows; each row is measured by one of them."
    return f"{ranks} processes share out those rows that do not depend on each other."


def from_first(value):
    """The value that process 0 has, in all of them.

    >>> from_first(3)
    3
    """
    box = [value]
    if in_processes():
        dist.broadcast_object_list(box)
    return box[0]


def shared(share: str, measure: Callable[..., dict], cases: Iterable[dict]) -> Iterator[dict]:
    """measure(**case) for case after case, in all processes: "batches": all measure it, and what
    process 0 has counts; "rows": each one measures another case at a time.

    >>> list(shared("rows", lambda n: {"square": n * n}, [{"n": 2}, {"n": 3}]))
    [{'square': 4}, {'square': 9}]
    """
    if share == "batches" or not in_processes():
        for case in cases:
            yield from_first(measure(**case))
        return
    cases, ranks = iter(cases), dist.get_world_size()
    while turn := list(itertools.islice(cases, ranks)):
        parts = [None] * ranks
        with each_alone():
            mine = [measure(**case) for case in turn[rank() :][:1]]
        dist.all_gather_object(parts, mine)
        yield from itertools.chain(*parts)
