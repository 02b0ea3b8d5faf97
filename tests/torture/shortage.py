"""Something runs out: memory, descriptors, room in the store or on the disk, places to wait.

    allocations     the n-th allocation in the daemon fails, once or from then on, for every n until none is reached: at a first start, in
                    steady state, while the tables and the log grow, in a recovery, at a shutdown (interpose.c and memory.c)
    the library     the same in each call of libidem (library.c), all of it, whatever --cases says
    limits          one limit after the other is reached by somebody greedy, beside a good client (limits.py)

After one allocation that failed the daemon goes on, and nobody is told more than RESOURCE_EXHAUSTED, and that only until the next turn of its
loop. Where none works any more it may end, with exit code 71 and a line that says why. The next start works, and everything that was
acknowledged is there.

Without --cases it goes on until everything was tried, or the budget is over."""
import errno
import multiprocessing
import os
import random
import shutil
import subprocess
import traceback

from . import broken, faults, limits
from .daemon import INTERPOSE, Client, Daemon, Ended, op
from .limits import EXHAUSTED, TOO_LOW, wait_until
from .operations import Work
from .run import BUILD, IDEMD, Violation, ignore_sockets
from .wire import VALUES

SMALL_SHARE = 200
MEMORY = 15  # interpose.h: an allocation
LIBRARY = os.path.join(BUILD, "tests", "torture_library")
LIBRARY_SECONDS = 900
SANITIZER_LACKS = "AddressSanitizer: CHECK failed"  # it is the sanitizer itself that had no memory, and cannot bear it
TRIES_MAX = 200  # of a broken build
PAGE = 7  # operations in one answer to List


# ---- The n-th allocation in the daemon ----------------------------------------------------------------


def named(where, program):
    """A stack as functions' names, as far as addr2line knows them."""
    frames = [word.rsplit("+", 1) for word in where.split() if word.startswith(program + "+")]
    try:
        names = subprocess.run(["addr2line", "-f", "-e", program] + [address for _, address in frames], capture_output=True, text=True,
                               check=False).stdout.splitlines()[::2]
    except FileNotFoundError:
        return where
    return " < ".join(names) or where


class MemoryCase(faults.Case):
    """One allocation that fails, or all from one on."""
    refusals = (EXHAUSTED,)

    def _work(self, daemon, calls, grows=False, refusals=()):
        """Also asks whatever else there is to ask."""
        if not super()._work(daemon, calls, grows, refusals):
            return False
        try:
            self._ask(daemon, refusals)
        except Ended:
            return False
        return True

    def _ask(self, daemon, refusals):
        client = Client(daemon, self.history.next_id)
        answers = client.call_all([{"hello": {"client": "asker", "replaces": 4711}}, {"stats": {}}, {"stats": {"namespace": "test"}},
                                   {"recover": {"namespace": "nothing here"}}])
        waiting = client.send(recover={"namespace": "nothing here", "wait_ms": 60000})
        answers += [client.call(cancel={"id": waiting}), client.answer(waiting)]
        for answer in answers:
            if answer.status.code not in (0, VALUES["CODE_CANCELLED"], *refusals):
                raise Violation(f"it answers {dict(answer.status)}")
        self._list(client, refusals)
        bound = client.call(begin={"op": op(f"bound{client.next_id}", "bound"), "bind_to_connection": True})
        if bound.status.code not in (0, *refusals):
            raise Violation(f"it answers {dict(bound.status)}")
        self.history.next_id = client.next_id
        client.close()

    def _list(self, client, refusals):
        """A listing is whole, or refused."""
        found, call = set(), {"namespace": "test", "limit": PAGE}
        while True:
            answer = client.call(list=call)
            if answer.status.code in refusals and answer.status.code:
                return
            if answer.status.code:
                raise Violation(f"a List is answered with {dict(answer.status)}")
            found.update(one.op.key for one in answer.list.get("operations", []))
            if not answer.list.cursor:
                break
            call = {**call, "cursor": answer.list.cursor}
        there = {name for name, key in self.history.keys.items() if all(state.state for state in key.allowed(lambda answer: True))}
        if not found >= there:
            raise Violation(f"a listing lacks {sorted(there - found)}")

    def _check_end(self, daemon, asked):
        code, log = daemon.wait(), daemon.read_log()
        if code == 0 and asked:
            return
        if code != TOO_LOW or not ("idemd: out of memory" in log or "idemd: no address space" in log or
                                   any("level=error" in line and "reason=" in line for line in log.splitlines())):
            raise Violation(f"it ended with {code}\n{log}")

    def _recovers(self, daemon):
        """There is memory again: something new is granted, and everything is as it was."""
        client = Client(daemon, self.history.next_id)
        work = Work(self.history, self.random, refusals=self.refusals)
        key = self.history.key(f"again{client.next_id}")
        wait_until(lambda: not work.all_at_once(client, [work.begin(key)])[0].status.code,
                   "that something new is granted when there is memory again")
        self.history.next_id = client.next_id
        client.close()
        if not self._look(daemon) or not self._work(daemon, 6):
            raise Ended("the daemon closed the connection")

    def _goes_on(self, fault, daemon):
        """There is memory again. Returns whether it goes on; where none worked for a while it may just be ending."""
        try:
            self._recovers(daemon)
            return True
        except Ended as ended:
            if not fault.from_then_on:
                raise Violation(f"one allocation failed, and later it ended: {ended}: {daemon.wait()}\n{daemon.read_log()}") from ended
            return False

    def _run(self, fault, phase, daemon):
        goes_on, asked = self._fail(phase, fault, daemon)
        hits, where = self.switch.hits(), self.switch.where()
        self.switch.disarm()
        try:
            if goes_on and self._goes_on(fault, daemon):
                if daemon.terminate() != 0:
                    raise Violation(f"it ends with {daemon.code}\n{daemon.read_log()}")
            elif not goes_on and not (fault.from_then_on or phase.starting or asked):
                raise Violation(f"one allocation failed, and it ended with {daemon.wait()}\n{daemon.read_log()}")
            elif not fault.from_then_on and asked and daemon.wait() != 0:
                raise Violation(f"one allocation failed, and it does not end well: {daemon.code}\n{daemon.read_log()}")
            else:
                self._check_end(daemon, asked)
            self._next_start()
        except Violation as violation:
            if SANITIZER_LACKS in daemon.read_log():
                return True
            raise Violation(f"{violation}\nwhere: {named(where, self.program)}") from violation
        return hits > 0


class MemoryBench(faults.Bench):
    errors, case_class = {MEMORY: [errno.ENOMEM]}, MemoryCase


faults.KINDS[MEMORY] = "allocation"


# ---- Limits -----------------------------------------------------------------------------------------------


def reach(folder, program, seed, shortage):
    """What one shortage violates, or None."""
    one = shortage(folder, program, seed)
    try:
        one.run()
    except (Violation, Ended) as violation:
        return f"{one.name}: {violation}\n{one.daemon.read_log()[-3000:] if one.daemon else ''}"
    except Exception:  # pylint: disable=broad-exception-caught
        return f"{one.name}: the suite itself failed: {traceback.format_exc()}"
    return None


class Limits:
    """For a pool: reaches the limits in a folder, and keeps what a violation leaves."""

    def __init__(self, folder, program, seed):
        self.folder, self.program, self.seed = folder, program, seed

    def run(self, number):
        """(its name, what was violated or None, what is to be kept)"""
        folder = os.path.join(self.folder, f"limit{number}")
        violation = reach(folder, self.program, self.seed, limits.SHORTAGES[number])
        kept = None
        if violation:
            kept = os.path.join(self.folder, f"found{number}")
            shutil.copytree(folder, kept, ignore=ignore_sockets)
        shutil.rmtree(folder, ignore_errors=True)
        return limits.SHORTAGES[number].name, violation, kept


# ---- The library ------------------------------------------------------------------------------------------


def try_library(folder, library_folder=None):
    """(how many cases, what was violated or None). library_folder: where another libidem is than the one under test."""
    os.makedirs(folder)
    daemon, switch = Daemon(folder, os.path.join(folder, "data")), faults.Switch(os.path.join(folder, "faults"))
    environment = dict(os.environ, LD_PRELOAD=INTERPOSE, TORTURE_FAULTS=os.path.join(folder, "faults"))
    environment["ASAN_OPTIONS"] = "verify_asan_link_order=0:" + environment.get("ASAN_OPTIONS", "")
    if library_folder:
        environment["LD_LIBRARY_PATH"] = library_folder
    try:
        if not daemon.start():
            raise Violation(f"it does not start\n{daemon.read_log()}")
        done = subprocess.run([LIBRARY, "unix:" + daemon.socket], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=LIBRARY_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return 0, "it does not come to its end"
    finally:
        daemon.kill()
        switch.close()
    if done.returncode != 0:
        return 0, f"exit status {done.returncode}: {done.stdout[-3000:]}"
    return int(done.stdout.split()[0]), None


# ---- Broken builds ------------------------------------------------------------------------------------------


MUTATIONS = [
    (broken.Mutation("the reserve is not given back", "daemon/base/memory.c", "        munmap(reserve, RESERVE_BYTES);\n", ""), limits.AddressSpace),
    (broken.Mutation("a full store refuses Complete too", "daemon/engine/decide.c",
                     "(call->type == CALL_CHECKPOINT && decision->change != CHANGE_NONE)", "decision->change == CHANGE_PUT"), limits.Quota),
    (broken.Mutation("the listener goes on asking without descriptors", "daemon/server/server.c",
                     "            stop_accepting(server);\n            server->accept_again_ms", "            server->accept_again_ms"),
     limits.Descriptors),
    (broken.Mutation("a namespace has no share", "daemon/engine/decide.c", "    return own < percent_of(share, limit > others ? limit - others : 0);",
                     "    return own <= limit + share + others;"), limits.UnfinishedShare),
    (broken.Mutation("memory stays short", "daemon/base/memory.c", "        atomic_store(&memory.given, false);\n",
                     "        atomic_store(&memory.given, true);\n"), ("steady state", False)),
    (broken.Mutation("one allocation of LMDB ends the daemon", "daemon/store/apply.c",
                     "    if (code == ENOMEM) {\n        mem_give_reserve();\n        return apply_once(apply);\n    }\n    return code;",
                     "    return code == ENOMEM ? EIO : code;"), ("growth", False)),
    (broken.Mutation("no second try", "daemon/base/memory.c", "        piece = malloc(at_least_one(size));\n    }\n    return counted(need(piece));",
                     "    }\n    return counted(need(piece));"), ("steady state", False)),
    (broken.Mutation("an array that could not be had is filled", "client/reply.c", "    if (!attributes)\n", "    if (attributes == (void *)out)\n"),
     None),
    (broken.Mutation("want of memory after a call was sent is \"not done\"", "client/client.c", "    if (doubt && (idem_error_class",
                     "    if (doubt && client->fd == -2 && (idem_error_class"), None),
]


def caught_by(run, mutation, where, folder):
    """The first thing that a broken build violates, or None. `where` is a Shortage, a phase and whether all later ones fail, or None for
    the library."""
    if where is None:
        return try_library(folder, broken.build(mutation, run.folder, "library"))[1]
    program = broken.build(mutation, run.folder)
    if not isinstance(where, tuple):
        return reach(folder, program, run.seed, where)
    bench = MemoryBench(folder, program, run.seed)
    tried = [fault for group in bench.faults() for fault in group if (fault.phase.name, fault.from_then_on) == where]
    random.Random(run.seed).shuffle(tried)
    for fault in tried[:TRIES_MAX]:
        violation = bench.run(fault)[2]
        if violation:
            return f"{fault}: {violation}"
    return None


def _controls(run):
    limits_before, limits.PATIENCE = limits.PATIENCE, 5.0  # what never comes need not be waited for so long
    for number, (mutation, where) in enumerate(MUTATIONS):
        folder = os.path.join(run.folder, f"broken{number}")
        first = caught_by(run, mutation, where, folder)
        shutil.rmtree(folder, ignore_errors=True)
        run.control(mutation.name, first is not None)
        if first:
            run.say(f"caught \"{mutation.name}\": {first.splitlines()[0][:200]}")
    limits.PATIENCE = limits_before


# ---- A run --------------------------------------------------------------------------------------------------


def run(run):
    broken.check([mutation for mutation, _ in MUTATIONS])
    cases, violation = try_library(os.path.join(run.folder, "library"))
    run.cases += cases
    run.say(f"{cases} calls of libidem with failing allocations")
    if violation:
        run.violation(f"the library: {violation}", os.path.join(run.folder, "library"))
    bench = MemoryBench(os.path.join(run.folder, "bench"), IDEMD, run.seed)
    order = faults.in_order(bench.faults(), random.Random(run.seed))
    run.say(f"{len(order)} allocations of the daemon can fail")
    with multiprocessing.Pool(run.jobs) as pool:
        numbers = [number for number, one in enumerate(limits.SHORTAGES) if not (one.natural and broken.sanitized())]
        for _, violation, kept in pool.imap_unordered(Limits(run.folder, IDEMD, run.seed).run, numbers):
            run.cases += 1
            if violation:
                run.violation(f"{violation}", kept)
        met = done = 0
        for fault, was_met, violation, kept in faults.every(bench, order, pool, run.cases_max(SMALL_SHARE), run.ends()):
            done += 1
            met += was_met
            if violation:
                run.violation(f"{fault}: {violation}", kept)
    run.cases += done
    run.say(f"{len(numbers)} limits were reached; {met} of {done} allocations failed")
    _controls(run)
