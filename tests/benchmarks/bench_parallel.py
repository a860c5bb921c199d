"""Pipelines of processes whose stages nap: how long they really ran, against the simulator.

    python tests/benchmarks/bench_parallel.py
    python tests/benchmarks/bench_parallel.py --ranks 2 --micro 4 --times 1

The first has 4 ranks, 8 micro-batches, and each schedule 3 times.

F naps 40 ms and B 80 ms for a micro-batch, shared by the chunks of a rank. `ran`: the least of the
makespans, in seconds; `simulated`: of the same order, with the durations asked for; `ratio`: one by
the other. `measured`: simulated with the durations measured, in which waking late is counted. The
table goes to parallel.csv.
"""

import argparse
import datetime
import platform
from pathlib import Path

from tensorlab.parallel import pipelines, schedules
from tensorlab.parallel.distributed import Ranks, mean_durations
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("parallel.csv")
FORWARD, BACKWARD = 0.04, 0.08


def row(ranks, schedule, micro, times):
    chunks = 2 if schedule in pipelines.SEVERAL else 1
    naps = dict(forward=FORWARD, backward=BACKWARD)
    lines = [
        pipelines.nap_pipe(ranks, schedule, micro=micro, chunks=chunks, **naps)
        for _ in range(times)
    ]
    ran = min(lines, key=lambda line: line.makespan)
    asked = {"F": FORWARD / chunks, "B": BACKWARD / chunks}
    simulated = schedules.times(ran.orders, asked)
    measured = schedules.times(ran.orders, mean_durations(ran))
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()} {platform.system()}",
        "schedule": schedule,
        "ranks": ranks.world,
        "micro": micro,
        "ran": round(ran.makespan, 3),
        "simulated": round(simulated.makespan, 3),
        "ratio": round(ran.makespan / simulated.makespan, 3),
        "measured": round(measured.makespan, 3),
        "idle": round(ran.bubble, 3),
        "idle simulated": round(simulated.bubble, 3),
    }


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--ranks", type=int, default=4)
    args.add_argument("--micro", type=int, default=8)
    args.add_argument("--times", type=int, default=3)
    args = args.parse_args()
    with Ranks(args.ranks, timeout=120) as ranks:
        names = [name for name in pipelines.SCHEDULES if name != "zero bubble"]
        rows = [row(ranks, name, args.micro, args.times) for name in names]
    save_csv(rows, TABLE)
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
