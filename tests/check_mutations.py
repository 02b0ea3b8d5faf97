#!/usr/bin/env python3
"""Holds the broken builds of tests/torture against the sources: what a Mutation replaces must stand in its file exactly once. Reads every
suite's MUTATIONS and prints each one that no longer fits; exit status 1 if there is one."""
import glob
import importlib
import os
import sys

TESTS = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(TESTS)
sys.dont_write_bytecode = True
sys.path.insert(0, TESTS)
os.environ.setdefault("IDEMD_BUILD", os.path.join(TOP, "build", "release"))  # the suites ask for it; nothing in it is used here


def mutations():
    """Every (suite, Mutation). A suite's list has them alone, or each with what is to catch it."""
    for path in sorted(glob.glob(os.path.join(TESTS, "torture", "*.py"))):
        suite = os.path.basename(path)[:-len(".py")]
        if suite.startswith("__"):
            continue
        for entry in getattr(importlib.import_module("torture." + suite), "MUTATIONS", []):
            yield suite, entry[0] if isinstance(entry, tuple) else entry


def problem(mutation):
    """Why it does not fit; None: it does."""
    path = os.path.join(TOP, mutation.file)
    if not os.path.exists(path):
        return "there is no such file"
    with open(path, encoding="utf-8") as source:
        count = source.read().count(mutation.old)
    return None if count == 1 else f"its text occurs {count} times, and must occur once:\n{mutation.old}"


def main():
    checked = failed = 0
    for suite, mutation in mutations():
        why = problem(mutation)
        checked += 1
        if why:
            failed += 1
            print(f"tests/torture/{suite}.py: \"{mutation.name}\" in {mutation.file}: {why}")
    if not checked:
        print("tests/torture has no mutations: this check reads them from somewhere else than they are")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
