"""What a suite is given, and where it says what it found."""
import os
import shutil
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ["IDEMD_BUILD"]
IDEMD = os.path.join(BUILD, "daemon", "idemd")
SPACE_BYTES = 1 << 30  # what a suite's data needs at most
KEPT_MAX = 8  # folders of violations that are kept; more of the same say nothing new


class Violation(Exception):
    """Something that must not be: raised where a case finds it, caught by its suite, which calls Run.violation."""


class Run:
    """One suite's run. `with` removes its folder at the end; what a violation keeps lies elsewhere.

    seed, jobs      as the command line has them
    folder          a folder for data, in memory where the machine has /dev/shm
    cases, violations, caught, missed    the counts of the table"""

    def __init__(self, name, seed, arguments):
        self.name, self.seed, self.jobs = name, seed, max(1, arguments.jobs)
        self._budget, self._cases = arguments.budget, arguments.cases
        self.command = f"script/torture {name} --seed {seed}"
        if self._budget is not None:
            self.command += f" --budget {round(self._budget * 1000)}ms"
        if self._cases is not None:
            self.command += f" --cases {self._cases}"
        self.cases, self.violations, self.caught, self.missed = 0, [], [], []
        self.seconds = 0.0
        self._kept = 0
        self._started = time.monotonic()

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix=f"idemd-{self.name}-", dir=_in_memory())
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def cases_max(self, small_share):
        """How many cases the command line asks for: `small_share` where it gives neither a number nor a time, None for "until the
        time is over"."""
        if self._cases is not None:
            return self._cases
        return None if self._budget is not None else small_share

    def budget(self):
        """How long (seconds) the command line wants it to look; None: it does not say."""
        return self._budget

    def ends(self):
        """When (time.monotonic) no further case is to begin; infinity if only a number of cases was asked for."""
        return float("inf") if self._budget is None else self._started + self._budget

    def violation(self, text, folder=None):
        """Counts a violation, and keeps what lies in `folder`."""
        self.violations.append(text)
        where = ""
        if folder and self._kept < KEPT_MAX:
            self._kept += 1
            kept = os.path.join(BUILD, "torture", "kept", f"{self.name}-{self.seed}-{self._kept}")
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, symlinks=True, ignore=ignore_sockets)
            where = f"; its data is in {kept}"
        print(f"{self.name}: VIOLATION: {text}{where}\n  to repeat: {self.command}", file=sys.stderr, flush=True)

    def control(self, name, caught, what=""):
        """Says whether a build that is broken on purpose was caught."""
        if caught:
            self.caught.append(name)
        else:
            self.missed.append(name)
            print(f"{self.name}: NOT CAUGHT: {name} {what}\n  to repeat: {self.command}", file=sys.stderr, flush=True)

    def say(self, text):
        print(f"{self.name}: {text}", flush=True)

    def good(self):
        return not self.violations and not self.missed


def _in_memory():
    """A folder in memory, if there is one with room."""
    try:
        space = os.statvfs("/dev/shm")
    except FileNotFoundError:
        return None
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) and space.f_bavail * space.f_frsize >= SPACE_BYTES else None


def ignore_sockets(folder, names):
    """For shutil.copytree."""
    return [name for name in names if not os.path.isdir(os.path.join(folder, name)) and not os.path.isfile(os.path.join(folder, name))]
