"""Does splitting grow better networks than what looks at nothing? Paired runs, and a page of results.

    python benchmarks/splitting_results docs/results           runs what is missing, and writes splitting.md, its plots
                                                               and splitting.csv with the numbers of every run
    python benchmarks/splitting_results FOLDER --quick         a few steps of everything, to see whether it works

Finished runs are kept in the CSV file, so that an interrupted command goes on where it was; delete the file to measure
anew. Fashion-MNIST is found as the recipes find it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

from methods import methods_of
from page import page
from plots import draw
from store import Store
from tasks import TASKS, task_named
from trial import FLOPS, PARAMETERS, quiet, run


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    quiet()
    tasks = [task_named(name, quick=options.quick) for name in options.tasks]
    options.folder.mkdir(parents=True, exist_ok=True)
    store = Store(options.folder / "splitting.csv", tasks)
    # Seed by seed, so that an interrupted command leaves whole pairs.
    wanted = [
        (task.name, equal, method, seed)
        for seed in range(options.seeds)
        for task in tasks
        for equal in (PARAMETERS, FLOPS)
        for method in methods_of(task)
    ]
    missing = [key for key in wanted if key not in store.runs]
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.processes, initializer=quiet) as pool:
        for number, rows in enumerate(pool.imap_unordered(partial(run, quick=options.quick), missing), 1):
            store.add(rows)
            print(f"{number} of {len(missing)} runs, {time.perf_counter() - start:.0f} s", flush=True)
    draw(store.runs, tasks, options.folder)
    (options.folder / "splitting.md").write_text(page(store.runs, tasks), encoding="utf-8")


if __name__ == "__main__":
    main()
