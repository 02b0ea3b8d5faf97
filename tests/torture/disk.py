"""A model of the disk. It follows what the daemon did to files and names, and says what a power cut may leave of it.

What was flushed is there. Of what was not, each 512-byte sector, each change of a size and each name is there or lost, in any
combination. A write is flushed when a flush that began after it had returned has returned; one with RWF_DSYNC or through O_DSYNC when it
has returned itself. A name is flushed when its folder is; a size with the file. That is less than any file system gives."""
import os
import struct

from . import wire

SECTOR = 512
HEADER = struct.Struct("<IHHIiqqq")
OPEN, WRITE, FLUSH, FLUSH_NAMES, TRUNCATE, ALLOCATE, RENAME, LINK, UNLINK, MKDIR, MAP, CLOSE, SEND = range(1, 14)


class Record:
    """One record of interpose.c. Of a call that begins, `result` is what it will return; None: the process ended before."""
    __slots__ = ("kind", "ended", "call", "fd", "a", "b", "result", "data")

    def __init__(self, kind, ended, call, fd, a, b, result, data):
        self.kind, self.ended, self.call, self.fd, self.a, self.b, self.result, self.data = kind, ended, call, fd, a, b, result, data


def read_records(path):
    with open(path, "rb") as recording:
        data = recording.read()
    records, open_calls, at = [], {}, 0
    while at < len(data):
        size, kind, ended, call, fd, a, b, result = HEADER.unpack_from(data, at)
        record = Record(kind, ended, call, fd, a, b, result, data[at + HEADER.size:at + size])
        if kind == CLOSE:
            record.result = 0
        elif not ended:
            record.result = None
            open_calls[call] = record
        else:
            begun = open_calls.pop(call)
            begun.result = result
        records.append(record)
        at += size
    return records


class Change:
    """A change that is not flushed: of sectors (data is not None), of a size, or both."""
    __slots__ = ("start", "data", "size", "ended")

    def __init__(self, start, data, size):
        self.start, self.data, self.size, self.ended = start, data, size, False


class File:
    def __init__(self, content=b""):
        self.durable, self.durable_size = bytearray(content), len(content)
        self.content, self.size = bytearray(content), len(content)
        self.pending = []

    def write(self, offset, data):
        end = offset + len(data)
        start, stop = offset // SECTOR * SECTOR, -(-end // SECTOR) * SECTOR
        if len(self.content) < stop:
            self.content.extend(bytes(stop - len(self.content)))
        self.content[offset:end] = data
        change = Change(start, bytes(self.content[start:stop]), None)
        if end > self.size:
            self.size = change.size = end
        self.pending.append(change)
        return change

    def resize(self, size):
        del self.content[size:]
        self.size = size
        self.pending.append(Change(0, None, size))
        return self.pending[-1]

    def _persist_data(self, change):
        stop = change.start + len(change.data)
        if len(self.durable) < stop:
            self.durable.extend(bytes(stop - len(self.durable)))
        self.durable[change.start:stop] = change.data

    def _persist_size(self, size):
        del self.durable[size:]
        self.durable_size = size

    def persist(self, change):
        """A write that has returned, and flushes itself: what came before it in its sectors is overwritten."""
        if change not in self.pending:
            return
        at = self.pending.index(change)
        stop = change.start + len(change.data)
        kept = []
        for older in self.pending[:at]:
            if change.size is not None and older.size is not None:
                older.size = None
            kept.extend(_outside(older, change.start, stop))
        self.pending[:at + 1] = kept
        self._persist_data(change)
        if change.size is not None and change.size > self.durable_size:
            self.durable_size = change.size

    def flush(self, changes, sizes_shrink):
        done = set(map(id, changes))
        left = []
        for change in self.pending:
            if id(change) not in done:
                left.append(change)
                continue
            if change.data is not None:
                self._persist_data(change)
            if change.size is not None and change.size < self.durable_size and not sizes_shrink:
                left.append(Change(0, None, change.size))
                left[-1].ended = True
            elif change.size is not None:
                self.durable_size = change.size
                if change.data is None:
                    self._persist_size(change.size)
        self.pending = left

    def image(self, choice):
        """The bytes that a cut leaves."""
        content, size = bytearray(self.durable), self.durable_size
        sizes = choice.prefix(len(self.pending))
        for n, change in enumerate(self.pending):
            if change.data is not None:
                choice.sectors(content, change.start, change.data)
            if change.size is not None and n < sizes:
                if change.data is None:
                    del content[change.size:]
                size = change.size
        if len(content) < size:
            content.extend(bytes(size - len(content)))
        del content[size:]
        return content


def _outside(change, start, stop):
    """What of a change lies outside of a range."""
    if change.data is None:
        return [change] if change.size is not None else []
    end = change.start + len(change.data)
    if end <= start or change.start >= stop:
        return [change]
    parts = []
    for first, last in ((change.start, start), (stop, end)):
        if first < last:
            part = Change(first, change.data[first - change.start:last - change.start], change.size)
            part.ended = change.ended
            parts.append(part)
    if not parts and change.size is not None:
        part = Change(0, None, change.size)
        part.ended = change.ended
        parts.append(part)
    return parts


class Names:
    """A change of a folder's names that is not flushed, all of it or nothing."""
    __slots__ = ("names", "ended")

    def __init__(self, names):
        self.names, self.ended = names, False


class Folder:
    def __init__(self):
        self.durable, self.names, self.pending = {}, {}, []

    def change(self, names):
        """names: what each now is; None: nothing."""
        _put(self.names, names)
        self.pending.append(Names(names))
        return self.pending[-1]

    def flush(self, changes):
        for change in [change for change in self.pending if change in changes]:
            _put(self.durable, change.names)
            self.pending.remove(change)

    def image(self, choice):
        names = dict(self.durable)
        for change in self.pending:
            if choice.whole():
                _put(names, change.names)
        return names


def _put(names, changed):
    for name, node in changed.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Choice:
    """What of the unflushed a cut leaves: by `mode`, and within it by chance. No two files are treated alike."""
    MODES = ["none", "all", "half", "one lost", "one kept", "first", "mixed"]

    def __init__(self, random, mode):
        self.random, self.mode = random, mode

    def _mode(self):
        return self.random.choice(Choice.MODES[:-1]) if self.mode == "mixed" else self.mode

    def prefix(self, count):
        mode = self._mode()
        return 0 if mode == "none" else count if mode == "all" else self.random.randint(0, count)

    def whole(self):
        mode = self._mode()
        if mode in ("none", "all"):
            return mode == "all"
        return self.random.random() < 0.5

    def sectors(self, content, start, data):
        mode, total = self._mode(), len(data) // SECTOR
        if mode == "none":
            return
        if len(content) < start + len(data):
            content.extend(bytes(start + len(data) - len(content)))
        elif content[start:start + len(data)] == data:
            return
        if mode == "all":
            content[start:start + len(data)] = data
        elif mode == "first":
            size = self.random.randint(0, total) * SECTOR
            content[start:start + size] = data[:size]
        elif mode == "one lost":
            at = self.random.randrange(total) * SECTOR
            kept = content[start + at:start + at + SECTOR]
            content[start:start + len(data)] = data
            content[start + at:start + at + SECTOR] = kept
        elif mode == "one kept":
            at = self.random.randrange(total) * SECTOR
            content[start + at:start + at + SECTOR] = data[at:at + SECTOR]
        else:
            bits = self.random.getrandbits(total)
            for sector in range(total):
                if bits >> sector & 1:
                    at = sector * SECTOR
                    content[start + at:start + at + SECTOR] = data[at:at + SECTOR]


class Disk:
    """Everything below one folder, the tree, in which `folders` lie at first. apply() takes the records of one process after the other."""

    def __init__(self, tree, folders=()):
        self.tree, self.root = tree, Folder()
        self.root.durable = {name: Folder() for name in folders}
        self.root.names = dict(self.root.durable)
        self.files = {}    # by descriptor, of the process at work
        self.changes = {}  # by call, of those that have not returned
        self.mapped = []

    @staticmethod
    def of(tree):
        """As it lies there, all of it flushed."""
        disk = Disk(tree)
        disk.root = _read_folder(tree)
        return disk

    def begin_process(self):
        self.files, self.changes = {}, {}

    def _find(self, path):
        """The folder of a path, and its last name."""
        parts = os.path.relpath(path, self.tree).split(os.sep)
        folder = self.root
        for part in parts[:-1]:
            folder = folder.names[part]
        return folder, parts[-1]

    def _node(self, path):
        folder, name = self._find(path)
        return self.root if name == "." else folder.names.get(name)

    def pending(self):
        """Is anything not flushed?"""
        return _pending(self.root, set())

    def apply(self, record):
        if record.ended:
            self._end(record)
        elif record.result is None or record.result >= 0:
            self._begin(record)

    def _begin(self, record):
        kind, call = record.kind, record.call
        if kind == OPEN:
            path = _path(record.data)
            if record.b and self._node(path) is None:
                folder, name = self._find(path)
                self.changes[call] = [(folder, folder.change({name: File()}))]
            self.changes.setdefault(call, []).append(path)
        elif kind == WRITE:
            data = record.data if record.result is None else record.data[:record.result]
            if data:
                file = self.files[record.fd]
                self.changes[call] = (file, file.write(record.a, data), record.b)
        elif kind in (TRUNCATE, ALLOCATE):
            file = self.files[record.fd]
            size = record.a if kind == TRUNCATE else max(file.size, record.a + record.b)
            if size != file.size:
                self.changes[call] = (file, file.resize(size), 0)
        elif kind in (FLUSH, FLUSH_NAMES):
            node = self.files[record.fd]
            self.changes[call] = (node, [change for change in node.pending if change.ended], record.a)
        elif kind in (RENAME, LINK):
            self._move(record)
        elif kind in (UNLINK, MKDIR):
            folder, name = self._find(_path(record.data))
            self.changes[call] = [(folder, folder.change({name: Folder() if kind == MKDIR else None}))]
        elif kind == MAP:
            self.mapped.append(record.fd)
        elif kind == CLOSE:
            self.files.pop(record.fd, None)

    def _move(self, record):
        source, target, _ = record.data.split(b"\0")
        (folder, name), (to_folder, to_name) = self._find(source.decode()), self._find(target.decode())
        node = folder.names[name]
        if folder is not to_folder:
            raise ValueError("the model has no rename from one folder to another")
        change = {to_name: node} if record.kind == LINK else {name: None, to_name: node}
        self.changes[record.call] = [(folder, folder.change(change))]

    def _end(self, record):
        begun = self.changes.pop(record.call, None)
        if begun is None:
            return
        if record.kind == OPEN:
            self.files[record.result] = self._node(begun.pop())
            for _, change in begun:
                change.ended = True
        elif record.kind in (WRITE, TRUNCATE, ALLOCATE):
            file, change, flushes = begun
            change.ended = True
            if flushes:
                file.persist(change)
        elif record.kind == FLUSH:
            begun[0].flush(begun[1], begun[2])
        elif record.kind == FLUSH_NAMES:
            begun[0].flush(begun[1])
        elif record.kind in (RENAME, LINK, UNLINK, MKDIR):
            for _, change in begun:
                change.ended = True

    def lay(self, folder, choice, junk=b""):
        """Makes, in an empty folder, what a cut leaves. `junk` is what stands in LMDB's lock file, whose content counts for nothing."""
        _lay(self.root, folder, choice, junk)

    def differs(self):
        """What the recording did not see: the first path where the tree is not as the model has it; None: none."""
        return _differs(self.root, self.tree)


def whole(records):
    """Has each call that changes something returned? If a process was killed in the middle of one, nobody knows what it did."""
    return all(record.ended or record.result is not None or record.kind in (FLUSH, FLUSH_NAMES, SEND) for record in records)


def _path(data):
    return data.rstrip(b"\0").decode()


def _pending(folder, seen):
    if folder.pending:
        return True
    for node in list(folder.names.values()) + list(folder.durable.values()):
        if isinstance(node, Folder) and id(node) not in seen:
            seen.add(id(node))
            if _pending(node, seen):
                return True
        elif isinstance(node, File) and node.pending:
            return True
    return False


def _lay(node, path, choice, junk):
    for name, inner in node.image(choice).items():
        at = os.path.join(path, name)
        if isinstance(inner, Folder):
            os.mkdir(at, 0o700)
            _lay(inner, at, choice, junk)
        else:
            with open(at, "wb") as file:
                file.write(junk if name == "lock.mdb" else inner.image(choice))


def _read_folder(path):
    folder = Folder()
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            folder.names[entry.name] = _read_folder(entry.path)
        else:
            with open(entry.path, "rb") as file:
                folder.names[entry.name] = File(file.read())
    folder.durable = dict(folder.names)
    return folder


def _differs(folder, path):
    if set(os.listdir(path)) != set(folder.names):
        return path
    for name, node in folder.names.items():
        at = os.path.join(path, name)
        if isinstance(node, Folder):
            found = _differs(node, at)
            if found:
                return found
        elif name != "lock.mdb":
            with open(at, "rb") as file:
                if file.read() != node.content[:node.size] + bytes(max(0, node.size - len(node.content))):
                    return at
    return None


def answers_sent(records):
    """Which answers' ids were, as whole frames, handed to a send that began with which record: {id: index}."""
    streams, sent = {}, {}
    for index, record in enumerate(records):
        if record.kind != SEND or record.ended or not record.data:
            continue
        data = record.data if record.result is None else record.data[:max(0, record.result)]
        for answer in streams.setdefault(record.fd, wire.Reader()).feed(data):
            sent.setdefault(answer.id, index)
    return sent
