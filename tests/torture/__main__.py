"""script/torture [SUITE]... [--budget D] [--cases N] [--seed N]"""
import argparse
import importlib
import os
import random
import re
import sys
import time

from . import broken
from .run import Run

SUITES = ["power", "faults", "walks", "swarm", "shortage"]


def duration(text):
    """20s, 30m, 2h, 500ms, as seconds."""
    match = re.fullmatch(r"(\d+)(ms|s|m|h)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text}: write a duration as 20s, 30m, 2h")
    return int(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]


def read_arguments():
    parser = argparse.ArgumentParser(prog="script/torture", description="Runs suites that try to break idemd, and prints what they counted.")
    parser.add_argument("suite", nargs="*", metavar="SUITE", help="which to run: " + ", ".join(SUITES) + " (all)")
    parser.add_argument("--budget", type=duration, metavar="D", help="how long each suite looks for faults, as 20s or 30m")
    parser.add_argument("--cases", type=int, metavar="N", help="how many cases each suite runs (if neither is given: a small share)")
    parser.add_argument("--seed", type=int, metavar="N", help="of all choices (a new one)")
    parser.add_argument("--jobs", type=int, metavar="N", default=os.cpu_count() or 1, help="how many cases run at a time (one a core)")
    arguments = parser.parse_args()
    for name in arguments.suite:
        if name not in SUITES:
            parser.error(f"{name}: no such suite; there are {', '.join(SUITES)}")
    return arguments


def print_table(runs):
    print(f"\n{'suite':<10}{'cases':>9}{'violations':>12}{'broken builds caught':>22}{'seconds':>9}")
    for run in runs:
        caught = f"{len(run.caught)} of {len(run.caught) + len(run.missed)}"
        print(f"{run.name:<10}{run.cases:>9}{len(run.violations):>12}{caught:>22}{run.seconds:>9.1f}")


def main():
    arguments = read_arguments()
    seed = random.SystemRandom().randrange(1, 1 << 31) if arguments.seed is None else arguments.seed
    runs = []
    for name in arguments.suite or SUITES:
        suite = importlib.import_module("." + name, __package__)
        with Run(name, seed, arguments) as run:
            print(f"{name}: seed {seed}; to repeat: {run.command}", flush=True)
            started = time.monotonic()
            try:
                suite.run(run)
            except broken.Outdated as outdated:
                run.violation(str(outdated))
            run.seconds = time.monotonic() - started
            runs.append(run)
    print_table(runs)
    return 0 if all(run.good() for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
