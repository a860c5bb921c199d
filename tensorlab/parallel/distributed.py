"""Several processes on one machine that stay alive and take jobs; what their collectives send; and
the schedule that a pipeline really ran.

`torch.distributed` does the work. What is here makes it usable from a test, a script and a cell of
a notebook alike: processes are spawned, never forked, a hang becomes an error, and none is left
behind.
"""

import math
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..arguments import is_integer
from .cost import ring_bytes
from .schedules import Op, Run, Timeline

GRACE = 5.0  # seconds for the other ranks to answer when one has failed
START, LEAVE = 120.0, 15.0  # for all to be there, and to be gone

# ------------------------------------------------------------------------------------ the processes


class Ranks:
    """Processes that form one group of `torch.distributed` and stay alive for job after job.

    world: how many. timeout: seconds for one job, after which it is an error and the processes are
    stopped. threads: of torch, in each. backend: of the group. They are started at the first job,
    in about the time that torch needs to be imported; `close` or the end of a `with` stops them,
    and so does the end of the program that started them.

    >>> ranks = Ranks(2)
    >>> ranks
    Ranks(2, gloo, not started)
    """

    def __init__(
        self, world: int, *, timeout: float = 60.0, threads: int = 1, backend: str = "gloo"
    ):
        if not is_integer(world) or world < 1 or not timeout > 0:
            raise ValueError(
                f"Ranks: needs a number of processes >= 1 and a timeout > 0, got {world!r} and "
                f"{timeout}"
            )
        self.world, self.timeout, self.threads, self.backend = world, timeout, threads, backend
        self._processes, self._pipes, self._folder = [], [], None

    def run(self, function: Callable, *args, **kwargs) -> list:
        """What function(*args, **kwargs) returns on each rank, in their order.

        function: of a module that a new process can import; inside, `torch.distributed` is ready.
        Arguments and results travel by pickle, tensors are copied. Raises ValueError for a function
        of a notebook's cell or a lambda, RuntimeError, naming the rank, where one raises, dies or
        gives no answer in time. After that the next job starts new processes, unless all ranks have
        raised and are well.
        """
        job = _packed(function, args, kwargs)
        if not self._processes:
            self._start()
        return self._ask(job, self.timeout)

    def close(self) -> None:
        """Stop the processes: all meet once more, so that none leaves while another needs it."""
        if self._processes:
            try:
                self._ask(pickle.dumps((_meet, (), {})), LEAVE)
            except RuntimeError:  # what had to be said of them has been said by the last job
                return
        self._stop(LEAVE)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __repr__(self):
        state = f"pids {[p.pid for p in self._processes]}" if self._processes else "not started"
        return f"Ranks({self.world}, {self.backend}, {state})"

    def _start(self):
        spawn = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="tensorlab-ranks-")
        store = str(Path(self._folder.name) / "store")
        for rank in range(self.world):
            mine, theirs = spawn.Pipe()
            about = (rank, self.world, self.backend, store, self.timeout, self.threads)
            process = spawn.Process(target=_serve, args=(theirs, *about), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)
        self._ask(pickle.dumps((_meet, (), {})), START)

    def _ask(self, job: bytes, timeout: float) -> list:
        """Give all ranks a job and wait for what they answer."""
        try:
            for pipe in self._pipes:
                pipe.send_bytes(job)
            answers, failed = self._collect(timeout)
        except BaseException:  # also an interrupt: what they are in the middle of is not known
            self._stop()
            raise
        if not failed:
            return [answers[rank] for rank in range(self.world)]
        if len(failed) < self.world or any(told is None for _, told in failed.values()):
            self._stop()
        dead = (rank for rank, (_, told) in failed.items() if told is None)
        rank = next(dead, next(iter(failed)))  # a death before what others say of it
        sentence, told = failed[rank]
        error = RuntimeError(f"rank {rank} {sentence}")
        if told:
            error.add_note(told)
        raise error

    def _collect(self, timeout) -> tuple[dict, dict]:
        """Answers by rank, and failures by rank in the order in which they came."""
        answers, failed, waiting = {}, {}, dict(enumerate(self._pipes))
        end = time.monotonic() + timeout
        while waiting and (left := end - time.monotonic()) > 0:
            by_pipe = {pipe: rank for rank, pipe in waiting.items()}
            for pipe in connection.wait(list(by_pipe), left):
                rank = by_pipe[pipe]
                del waiting[rank]
                try:
                    good, value = pickle.loads(pipe.recv_bytes())
                except (EOFError, OSError):
                    good, value = False, (self._died(rank), None)
                (answers if good else failed)[rank] = value
                if not good:
                    end = min(end, time.monotonic() + GRACE)
        if waiting and not failed:
            late = f"gave no answer in {timeout:g} s; no collective is met by all ranks"
            failed = {rank: (late, None) for rank in waiting}
        return answers, failed

    def _died(self, rank: int) -> str:
        self._processes[rank].join(GRACE)
        return f"died, with exit code {self._processes[rank].exitcode}"

    def _stop(self, patience: float = 0.0):
        for pipe in self._pipes:
            pipe.close()  # which tells them to leave
        end = time.monotonic() + patience
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._processes, self._pipes, self._folder = [], [], None


def _packed(function, args, kwargs) -> bytes:
    """A job as bytes, refused before a process sees it where it could not read it."""
    name = getattr(function, "__qualname__", type(function).__name__)
    main = sys.modules.get("__main__")
    if getattr(function, "__module__", None) == "__main__" and not hasattr(main, "__file__"):
        raise ValueError(
            f"Ranks.run: needs a function that a new process can import, got {name} of this "
            f"notebook; write it into a .py file beside it and import it from there"
        )
    try:
        return pickle.dumps((function, args, kwargs))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Ranks.run: needs a function and arguments that pickle can send, got {name}: {error}"
        ) from error


def _meet() -> None:
    """The first job and the last: all are there."""
    dist.barrier()


def _serve(pipe, rank, world, backend, store, timeout, threads) -> None:
    """What a process does: jobs until it is told to leave, or nobody is there to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the one who gives the jobs
    torch.set_num_threads(threads)
    init = dict(init_method=f"file://{store}", timeout=timedelta(seconds=timeout))
    dist.init_process_group(backend, rank=rank, world_size=world, **init)
    try:
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))
    except (EOFError, BrokenPipeError):  # nobody is there any more
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # gloo aborts now and then while Python takes it apart, which takes seconds too


def _answer(job: bytes) -> bytes:
    try:
        function, args, kwargs = pickle.loads(job)  # imports its module
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:
        told = f"raised {type(error).__name__}: {error}"
        return pickle.dumps((False, (told, traceback.format_exc())))


# ------------------------------------------------------------------------------------ bytes counted

# Operators: their collective, and whether the whole tensor is as large as all inputs together.
COUNTED = {
    "all_reduce": ("all_reduce", False),
    "all_reduce_": ("all_reduce", False),
    "allreduce_": ("all_reduce", False),
    "all_gather_into_tensor": ("all_gather", True),
    "_allgather_base_": ("all_gather", True),
    "reduce_scatter_tensor": ("reduce_scatter", False),
    "_reduce_scatter_base_": ("reduce_scatter", False),
    "broadcast_": ("broadcast", False),
    "broadcast": ("broadcast", False),
    "alltoall_base_": ("all_to_all", True),
    "all_to_all_single": ("all_to_all", True),
}


class Collectives(TorchDispatchMode):
    """Counts the collectives of the block, and their bytes: those of DTensor, of FSDP, of
    pipelines' shapes and of calls by hand.

    seen: pairs of a collective's name and the bytes of the whole tensor. DistributedDataParallel
    reduces where no mode looks; `watch` counts it, and `calls` what its other hooks reduce.

    >>> with Collectives() as seen:
    ...     torch.ones(3) + 1
    tensor([2., 2., 2.])
    >>> seen
    Collectives(none)
    """

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = COUNTED.get(function._opname)
        if function.namespace in ("_c10d_functional", "c10d") and known:
            name, parts = known
            where = 1 if function._opname.endswith("base_") else 0  # (output, input, ...)
            size = sum(_bytes(t) for t in _flat(args[where]))
            self.seen.append((name, size * (dist.get_world_size() if parts else 1)))
        return function(*args, **(kwargs or {}))

    def watch(self, wrapper: nn.parallel.DistributedDataParallel) -> None:
        """Count what this wrapper reduces, from now on."""

        def hook(state, bucket):
            self.seen.append(("all_reduce", _bytes(bucket.buffer())))
            flat = bucket.buffer().div_(dist.get_world_size())
            work = dist.all_reduce(flat, async_op=True)
            return work.get_future().then(lambda future: future.value()[0])

        wrapper.register_comm_hook(None, hook)

    @contextmanager
    def calls(self) -> Iterator["Collectives"]:
        """Count each `dist.all_reduce` of the block, from any thread: a hook such as PowerSGD's
        goes on in one of gloo's, where no mode looks. Not together with a mode or `watch`."""
        plain = dist.all_reduce

        def counted(tensor, *args, **kwargs):
            self.seen.append(("all_reduce", _bytes(tensor)))
            return plain(tensor, *args, **kwargs)

        dist.all_reduce = counted
        try:
            yield self
        finally:
            dist.all_reduce = plain

    @property
    def counts(self) -> dict[str, int]:
        """How many there were, by name."""
        return dict(Counter(name for name, _ in self.seen))

    @property
    def bytes(self) -> dict[str, int]:
        """The bytes of their whole tensors, by name."""
        total = Counter()
        for name, size in self.seen:
            total[name] += size
        return dict(total)

    def wire(self, ranks: int) -> float:
        """The bytes that each rank sends for them in a ring, see `cost.ring_bytes`."""
        return math.fsum(ring_bytes(name, size, ranks) for name, size in self.seen)

    def __repr__(self):
        said = [f"{n} {name}, {self.bytes[name]} B" for name, n in self.counts.items()]
        return f"Collectives({'; '.join(said) or 'none'})"


def _flat(x) -> list[torch.Tensor]:
    return [x] if isinstance(x, torch.Tensor) else [t for part in x for t in _flat(part)]


def _bytes(t: torch.Tensor) -> int:
    return t.numel() * t.element_size()


# --------------------------------------------------------------------- the schedule that really ran

CHUNKS = {
    "F": "forward_one_chunk",
    "B": "backward_one_chunk",
    "W": "backward_weight_one_chunk",
}


class Recorder:
    """Notes when the stages of a pipeline work: `torch.distributed.pipelining` stages of this rank.

    runs: what has run since the start or the last `clear`. A backward in two is noted as B, its
    inputs' share, and W.
    """

    def __init__(self, *stages):
        self.runs: list[Run] = []
        for stage in stages:
            for kind, name in CHUNKS.items():
                setattr(stage, name, self._noted(kind, stage.stage_index, getattr(stage, name)))

    def _noted(self, kind, stage, inner):
        def outer(micro, *args, **kwargs):
            start = time.monotonic()  # one clock for all processes of a machine
            out = inner(micro, *args, **kwargs)
            run = Run(dist.get_rank(), Op(kind, micro, stage), start, time.monotonic())
            self.runs.append(run)
            return out

        return outer

    def clear(self) -> None:
        """Forget what has run, such as a first step that is slow."""
        self.runs.clear()

    def gather(self) -> Timeline:
        """What all ranks have run, with times from the first start; all of them call it."""
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self.runs)
        runs = [Run(rank, Op(*op), *when) for part in parts for rank, op, *when in part]
        zero = min(run.start for run in runs)
        shifted = (run._replace(start=run.start - zero, end=run.end - zero) for run in runs)
        return Timeline(tuple(shifted), len(parts))


def mean_durations(line: Timeline) -> dict[str, float]:
    """The mean duration of each kind of operation, with which `times` simulates what has run.

    >>> from tensorlab.parallel.schedules import one_f_one_b, times
    >>> mean_durations(times(one_f_one_b(2, 3), {"F": 1.0, "B": 2.0}))
    {'F': 1.0, 'B': 2.0}
    """
    kinds = dict.fromkeys(run.op.kind for run in line.runs)
    took = {kind: [r.end - r.start for r in line.runs if r.op.kind == kind] for kind in kinds}
    return {kind: sum(spans) / len(spans) for kind, spans in took.items()}
