"""Operations as clients see them: what they do, what they were told, and what may be true after that.

A State is what an operation is; a Key has its states so far, each with the id of the answer that told it; a History has all keys of a
store. Work makes calls for a History and notes the answers; look asks a daemon for operations and compares.

A change whose answer never came may have been made or not. So what an operation may be is what the last answer said, or what the call
after that asked for."""
import dataclasses

from .daemon import op
from .run import Violation
from .wire import VALUES

CLOCK_MS = 2000
LEASE_MS = 3600 * 1000  # longer than any run


@dataclasses.dataclass(frozen=True)
class State:
    """What an operation is. None: not known, since no answer said so."""
    state: int = 0  # 0: absent
    attempt: int = 0
    fence: int | None = None
    checkpoint: tuple | None = None
    outcome: tuple | None = None
    expires_ms: int | None = None
    said: tuple = ()  # operation and owner
    revision: int | None = None

    def __str__(self):
        name = {0: "absent", RUNNING: "running", INTERRUPTED: "interrupted", DONE: "done"}[self.state]
        return f"{name}, attempt {self.attempt}, fence {self.fence}"

    def fits(self, answer):
        """Does an answer to Get say this? Returns what it says otherwise; None: it fits."""
        if not self.state:
            return None if answer.status.code == VALUES["CODE_NOT_FOUND"] else f"it is absent, and Get says {_short(answer)}"
        if answer.status.code:
            return f"it is {self}, and Get says {dict(answer.status)}"
        info = answer["get"].info
        if (info.state, info.attempt) != (self.state, self.attempt):
            return f"it is {self}, and Get says state {info.state}, attempt {info.attempt}"
        if self.said and (info.operation, info.owner) != self.said:
            return f"it said {self.said}, and Get says {(info.operation, info.owner)}"
        if self.state == DONE:
            if _outcome(answer["get"].outcome) != self.outcome:
                return f"its outcome is {_short(self.outcome)}, and Get says {_short(_outcome(answer['get'].outcome))}"
            # The end is kept on a clock of the store, and told on the wall's.
            if self.expires_ms and abs(info.expires_ms - self.expires_ms) > CLOCK_MS:
                return f"it expires at {self.expires_ms}, and Get says {info.expires_ms}"
            return None
        checkpoint = answer["get"].checkpoint
        if (checkpoint.name, checkpoint.data) != (self.checkpoint or ("", b"")):
            return f"its checkpoint is {_short(self.checkpoint)}, and Get says {_short((checkpoint.name, checkpoint.data))}"
        return None


ABSENT = State()
RUNNING, INTERRUPTED, DONE = VALUES["STATE_RUNNING"], VALUES["STATE_INTERRUPTED"], VALUES["STATE_DONE"]
HELD, EXECUTE, REPLAY = VALUES["OWNERSHIP_HELD"], VALUES["ANSWER_EXECUTE"], VALUES["ANSWER_REPLAY"]


def _outcome(outcome):
    return (outcome.kind, outcome.code, outcome.body, tuple((a.name, a.value) for a in outcome.attributes))


def _short(value):
    text = repr(value)
    return text if len(text) < 100 else text[:100] + f"... ({len(text)} characters)"


class Key:
    """One operation: its states, each with the id of the answer that told it. None: no answer did."""

    def __init__(self, name, state=ABSENT):
        self.name, self.steps = name, [(state, 0)]

    @property
    def state(self):
        return self.steps[-1][0]

    def add(self, state, answer):
        self.steps.append((state, answer))

    def allowed(self, told):
        """What it may be, once the answers `told` (a function of an id) were sent: what the last of them said, or what came next."""
        last = max(n for n, (_, answer) in enumerate(self.steps) if answer is not None and told(answer))
        return [state for state, _ in self.steps[last:last + 2]]


class Knowledge:
    """What a cut may leave: for each operation what it may be, and the largest fence that was given to anybody."""

    def __init__(self, allowed, fence):
        self.allowed, self.fence = allowed, fence


class History:
    """Everything that clients did to one store, and were told."""

    def __init__(self, knowledge=None):
        self.keys, self.next_id = {}, 1
        self.fences = []  # (fence, id of the answer)
        if knowledge:
            self.fences.append((knowledge.fence, 0))
            for name, states in knowledge.allowed.items():
                key = self.keys[name] = Key(name, states[0])
                for state in states[1:]:
                    key.add(state, None)

    def key(self, name):
        return self.keys.setdefault(name, Key(name))

    def fence(self, fence, answer):
        self.fences.append((fence, answer))

    def at(self, sent, index):
        """What is known at a cut before record `index`, if `sent` says with which record each answer went."""
        def told(answer):
            return answer == 0 or sent.get(answer, 1 << 62) < index
        return Knowledge({name: key.allowed(told) for name, key in self.keys.items()},
                         max([fence for fence, answer in self.fences if told(answer)], default=0))


# ---- What clients do --------------------------------------------------------------------------------


class Work:
    """Calls of a client, one at a time for each operation, many at a time in all.

    sizes       of the bodies of outcomes
    names       of the operations
    finishes    what is begun is finished, and what is finished is left alone while there is anything else: so the store grows
    refusals    codes with which a call may be refused, which then changes nothing"""

    def __init__(self, history, choose, sizes=(0, 1, 40, 200, 2000, 5000), names=40, finishes=False, refusals=()):
        self.history, self.random, self.sizes, self.finishes, self.refusals = history, choose, sizes, finishes, refusals
        self.names = [f"{'g' if finishes else 'k'}{n}" for n in range(names)]
        self.open = {}  # id -> (key, what the answer is handed to)
        self.busy = set()

    def _choose(self):
        keys = [self.history.key(name) for name in self.names if name not in self.busy]
        left = [key for key in keys if key.state.state != DONE] if self.finishes else []
        return self.random.choice(left or keys)

    def call(self):
        """A call for some operation that is not busy: (key, call, the function that takes its answer, the state if it is not told)."""
        key = self._choose()
        return getattr(self, {0: "begin", RUNNING: "own", INTERRUPTED: "take_over", DONE: "replay"}[key.state.state])(key)

    def begin(self, key):
        """A call as call() returns it, for an operation that is absent. The ones below: that is running, interrupted, done."""
        said = (self.random.choice(["", "POST /charges"]), self.random.choice(["", "api-7"]))
        state = State(RUNNING, 1, None, None, None, None, said)
        call = {"begin": {"op": op(key.name), "operation": said[0], "owner": said[1], "lease_ms": LEASE_MS,
                          "attempt_id": self.random.randbytes(16), "input": self.random.randbytes(self.random.choice([0, 0, 100, 3000]))}}
        return key, call, self._granted, state

    def _granted(self, key, answer, state):
        if answer.begin.answer != EXECUTE:
            raise Violation(f"{key.name} was to be granted: {answer}")
        fence = answer.begin.grant.fence
        self.history.fence(fence, answer.id)
        key.add(dataclasses.replace(state, fence=fence), answer.id)

    def complete(self, key):
        outcome = {"kind": VALUES["OUTCOME_KIND_SUCCEEDED"], "code": self.random.choice([0, 200, -1]), "body": self.random.randbytes(self.random.choice(self.sizes)),
                   "attributes": [{"name": "n", "value": self.random.randbytes(9)}] * self.random.choice([0, 0, 2])}
        stored = (outcome["kind"], outcome["code"], outcome["body"], tuple((a["name"], a["value"]) for a in outcome["attributes"]))
        state = dataclasses.replace(key.state, state=DONE, checkpoint=None, outcome=stored, revision=None)
        return key, {"complete": {"op": op(key.name), "fence": key.state.fence, "outcome": outcome}}, self._completed, state

    def _completed(self, key, answer, state):
        if answer.complete.ownership != HELD:
            raise Violation(f"{key.name} was to be completed: {answer}")
        key.add(dataclasses.replace(state, expires_ms=answer.complete.expires_ms), answer.id)

    def own(self, key):
        what, state = self.random.random(), key.state
        if what < 0.55 or self.finishes:
            return self.complete(key)
        named = {"op": op(key.name), "fence": state.fence}
        if what < 0.75:
            checkpoint = ("c", self.random.randbytes(self.random.choice([0, 10, 3000])))
            return (key, {"checkpoint": {**named, "checkpoint": {"name": checkpoint[0], "data": checkpoint[1]}}}, self._held("checkpoint"),
                    dataclasses.replace(state, checkpoint=checkpoint))
        if what < 0.9:
            return (key, {"release": {**named, "effect": VALUES["EFFECT_UNKNOWN"]}}, self._held("release"),
                    dataclasses.replace(state, state=INTERRUPTED, revision=None))
        return key, {"release": {**named, "effect": VALUES["EFFECT_NONE"]}}, self._held("release"), ABSENT

    def _held(self, call):
        def take(key, answer, state):
            if answer.get(call) is None or answer[call].ownership != HELD:
                raise Violation(f"{call} of {key.name} was to be held: {answer}")
            key.add(state, answer.id)
        return take

    def take_over(self, key):
        what = self.random.random()
        if what < 0.3:
            return self.complete(key)
        if what < 0.6:
            return self._resolve(key) if key.state.revision else self._ask(key)
        # The fence of a grant that was not told is learnt when it is looked at.
        state = dataclasses.replace(key.state, state=RUNNING, attempt=key.state.attempt + 1, said=(key.state.said[0], "sweeper"),
                                    fence=None, revision=None)
        return (key, {"begin": {"op": op(key.name), "operation": state.said[0], "owner": "sweeper", "lease_ms": LEASE_MS,
                                "attempt_id": self.random.randbytes(16), "if_interrupted": VALUES["IF_INTERRUPTED_TAKE_OVER"]}},
                self._granted, state)

    def _resolve(self, key):
        named = {"op": op(key.name), "revision": key.state.revision}
        if self.random.random() < 0.5:
            return key, {"resolve": {**named, "verdict": VALUES["VERDICT_DID_NOT_HAPPEN"]}}, self._held("resolve"), ABSENT
        state = dataclasses.replace(key.state, state=DONE, checkpoint=None, outcome=(1, 201, b"seen", ()), expires_ms=None, revision=None)
        return (key, {"resolve": {**named, "verdict": VALUES["VERDICT_HAPPENED"], "outcome": {"kind": 1, "code": 201, "body": b"seen"}}},
                self._held("resolve"), state)

    def replay(self, key):
        if self.random.random() < 0.3:
            if not key.state.revision:
                return self._ask(key)
            return key, {"forget": {"op": op(key.name), "revision": key.state.revision}}, self._held("forget"), ABSENT
        return key, {"begin": {"op": op(key.name), "operation": key.state.said[0]}}, self._replayed, key.state

    def _ask(self, key):
        """For the revision, which Resolve and Forget name."""
        return key, {"get": {"op": op(key.name)}}, self._told, key.state

    def _told(self, key, answer, state):
        otherwise = state.fits(answer)
        if otherwise:
            raise Violation(f"{key.name}: {otherwise}")
        key.add(dataclasses.replace(state, revision=answer["get"].info.revision), answer.id)

    def _replayed(self, key, answer, state):
        if answer.begin.answer != REPLAY or _outcome(answer.begin.outcome) != state.outcome:
            raise Violation(f"{key.name} was to be replayed as {_short(state.outcome)}: {_short(answer)}")

    def all_at_once(self, client, chosen):
        """Makes calls as call() and its parts give them, of different operations. Returns the answers; one that is a refusal changed
        nothing."""
        answers = client.call_all([call for _, call, _, _ in chosen])
        self.history.next_id = client.next_id
        for (key, _, take, state), answer in zip(chosen, answers):
            if not answer.status.code:
                take(key, answer, state)
            elif answer.status.code not in self.refusals:
                raise Violation(f"{key.name}, {state}: {dict(answer.status)}")
        return answers

    def send(self, client, count):
        chosen = []
        for _ in range(count):
            chosen.append(self.call())
            self.busy.add(chosen[-1][0].name)
        first = client.next_id
        for n, one in enumerate(chosen):
            self.open[first + n] = one
        self.history.next_id = first + len(chosen)
        client.send_all([call for _, call, _, _ in chosen])

    def receive(self, client):
        for number, answer in client.receive().items():
            key, _, take, state = self.open.pop(number)
            self.busy.discard(key.name)
            if answer.status.code and answer.status.code not in self.refusals:
                raise Violation(f"{key.name} was refused: {dict(answer.status)}")
            if not answer.status.code:
                take(key, answer, state)

    def give_up(self):
        """The daemon is gone: what was not answered may have been done."""
        for key, _, take, state in self.open.values():
            if take not in (self._replayed, self._told):
                key.add(state, None)
        self.open, self.busy = {}, set()


def look(client, history, names):
    """Asks for operations, and notes what they are. Raises Violation if one is none of what it may be."""
    names = list(names)
    answers = client.call_all([{"get": {"op": op(name)}} for name in names])
    for name, answer in zip(names, answers):
        key = history.keys[name]
        allowed = key.allowed(lambda answer: True)
        reasons = [state.fits(answer) for state in allowed]
        if None not in reasons:
            raise Violation(f"{name}: " + "; or ".join(reasons))
        state = allowed[reasons.index(None)]
        if state.state == RUNNING and state.fence is None:
            state = dataclasses.replace(state, fence=answer["get"].info.revision)
        key.add(state, answer.id)
