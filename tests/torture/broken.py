"""Builds that are broken on purpose. A suite that does not catch them proves nothing when it finds nothing.

A Mutation replaces one piece of the daemon's source text in a copy of the sources. The copy is built, one mutation after the other, in
one extra folder beside the build under test: after the first time only what changed is compiled."""
import contextlib
import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass

from .run import BUILD, TOP

PARTS = ["CMakeLists.txt", "proto", "daemon", "client", "bench", "examples"]
FOLDER = os.path.join(os.path.dirname(BUILD), "torture")  # of all builds of this tree


@dataclass(frozen=True)
class Mutation:
    name: str
    file: str  # below the top of the tree
    old: str   # stands in it exactly once
    new: str

    def apply(self, text):
        if text.count(self.old) != 1:
            raise Outdated(f"the broken build \"{self.name}\" has to be brought up to date: what it replaces in {self.file} stands there "
                           f"{text.count(self.old)} times, and has to stand there once:\n{self.old}")
        return text.replace(self.old, self.new)


class Outdated(Exception):
    """A mutation that no longer fits the sources."""


def _write_changed(path, data):
    """Leaves a file alone that has these bytes, so that nothing is compiled again for it."""
    if os.path.exists(path):
        with open(path, "rb") as old:
            if old.read() == data:
                return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as new:
        new.write(data)


def _sources():
    for part in PARTS:
        path = os.path.join(TOP, part)
        if os.path.isfile(path):
            yield part
        for root, _, names in os.walk(path):
            for name in names:
                yield os.path.relpath(os.path.join(root, name), TOP)


def _copy_sources(folder, mutation):
    wanted = set()
    for name in _sources():
        with open(os.path.join(TOP, name), "rb") as source:
            data = source.read()
        if name == mutation.file:
            data = mutation.apply(data.decode()).encode()
        _write_changed(os.path.join(folder, name), data)
        wanted.add(name)
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            if os.path.relpath(path, folder) not in wanted:
                os.unlink(path)


def _cached(name):
    """What the build under test has for a variable of CMake's; None: it has none."""
    with open(os.path.join(BUILD, "CMakeCache.txt"), encoding="utf-8") as cache:
        for line in cache:
            if line.startswith(name + ":"):
                return line.split("=", 1)[1].strip()
    return None


def sanitized():
    """Is the build under test one with sanitizers?"""
    return _cached("IDEMD_SANITIZE") == "ON"


def _launcher():
    """The compiler cache that the build under test uses, if any."""
    launcher = _cached("CMAKE_C_COMPILER_LAUNCHER")
    return ["-DCMAKE_C_COMPILER_LAUNCHER=" + launcher] if launcher else []


def _run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise Outdated(f"a broken build does not build:\n{done.stdout}")


@contextlib.contextmanager
def _locked():
    """One suite at a time builds."""
    os.makedirs(FOLDER, exist_ok=True)
    with open(os.path.join(FOLDER, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check(mutations):
    """Do all of them fit the sources? Raises Outdated: cheap, so a suite asks first."""
    for mutation in mutations:
        with open(os.path.join(TOP, mutation.file), encoding="utf-8") as source:
            mutation.apply(source.read())


def build(mutation, folder, what="daemon"):
    """Builds the daemon with a mutation. Returns the program's path, a file in `folder`. what "library": builds libidem; returns the path of
    a folder that holds nothing else."""
    source, target = os.path.join(FOLDER, "source"), os.path.join(FOLDER, "build")
    name = "".join(c if c.isalnum() else "-" for c in mutation.name)
    made, made_from = (os.path.join(folder, "idemd-" + name), "daemon/idemd") if what == "daemon" else (
        os.path.join(folder, "libidem-" + name, "libidem.so.0"), "client/libidem.so.0")
    os.makedirs(os.path.dirname(made), exist_ok=True)
    with _locked():
        _copy_sources(source, mutation)
        if not os.path.exists(os.path.join(target, "build.ninja")):
            _run("cmake", "-S", source, "-B", target, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DBUILD_TESTING=OFF",
                 *_launcher())
        _run("cmake", "--build", target, "--target", "idemd" if what == "daemon" else "idem")
        shutil.copy(os.path.join(target, made_from), made)
    return made if what == "daemon" else os.path.dirname(made)
