#!/usr/bin/env python3
"""Reads every #include of ours and holds it against the CMakeLists.txt of its folder: a target may include what it links by name, and
nothing else. So the links are the only map of the layers. Prints every breach and every circle of includes; exit status 1 if there is
one.

- A header belongs to the target that compiles the source beside it of the same name. If there is none, it belongs to every target
  that compiles something beside it.
- If a library has a FILE_SET of headers, others may include only these.
- A vendor's header needs a link to the vendor's library."""
import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDERS = ("proto", "daemon", "client", "examples", "bench")
GENERATED = {"idem/v1/idem.pb-c.h": "idem_messages"}
VENDORS = {"ev.h": "libev", "lmdb.h": "PkgConfig::lmdb", "xxhash.h": "PkgConfig::xxhash", "uuid/uuid.h": "PkgConfig::uuid",
           "uuid.h": "PkgConfig::uuid", "sha2.h": "PkgConfig::md", "protobuf-c/protobuf-c.h": "idem_messages"}
WORDS = {"PUBLIC", "PRIVATE", "INTERFACE", "STATIC", "SHARED", "FILE_SET", "HEADERS", "FILES"}


class Target:
    def __init__(self, name):
        self.name, self.sources, self.links, self.headers = name, set(), set(), set()


def walk(suffixes):
    for folder in FOLDERS:
        for root, _, names in os.walk(os.path.join(TOP, folder)):
            for name in sorted(names):
                if name.endswith(suffixes):
                    yield os.path.relpath(os.path.join(root, name), TOP)


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def read_targets():
    targets = {}
    for path in walk(("CMakeLists.txt",)):
        folder, variables = os.path.dirname(path), {}
        text = re.sub(r"#.*", "", read(path))
        for command, arguments in re.findall(r"(\w+)\(([^()]*)\)", text):
            words = []
            for word in arguments.split():
                words += variables.get(word, [word])
            if command == "set":
                variables["${" + words[0] + "}"] = words[1:]
            elif command in ("add_library", "add_executable"):
                target = targets.setdefault(words[0], Target(words[0]))
                target.sources |= {os.path.join(folder, word) for word in words[1:] if word.endswith(".c")}
            elif command == "target_link_libraries":
                targets[words[0]].links |= set(words[1:]) - WORDS
            elif command == "target_sources":
                targets[words[0]].headers |= {os.path.join(folder, word) for word in words[1:] if word.endswith(".h")}
    return targets


def owners(path, targets):
    """The targets that a file of ours belongs to."""
    source = path[:-2] + ".c"
    found = [target for target in targets.values() if source in target.sources]
    return found or [target for target in targets.values() if os.path.dirname(path) in map(os.path.dirname, target.sources)]


def may_include(mine, include, theirs):
    """Of targets that a file belongs to, and those that a header of ours belongs to."""
    for target in mine:
        for other in theirs:
            if other.name == target.name or (other.name in target.links and not (other.headers or ())):
                return True
    names = {name for target in mine for name in target.links}
    return any(include in other.headers for other in published if other.name in names)


published = []


def circles(graph):
    """The groups of modules that include each other: Tarjan 1972."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == node:
                    break
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def main():
    targets = read_targets()
    published.extend(target for target in targets.values() if target.headers)
    breaches, files, graph = [], 0, {}
    for path in walk((".c", ".h")):
        files += 1
        mine = owners(path, targets)
        includes = re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', read(path), re.M)
        own = path[:-2] + ".h"
        if path.endswith(".c") and own in includes and includes[0] != own:
            breaches.append(f"{path}: includes {includes[0]} before its own header")
        module = graph.setdefault(path[:-2], set())
        for include in includes:
            vendor = VENDORS.get(include) or GENERATED.get(include)
            names = {target.name for target in mine} | {name for target in mine for name in target.links}
            if vendor and vendor not in names:
                breaches.append(f"{path}: includes {include}, but does not link {vendor}")
            if include in GENERATED or "/" not in include or not os.path.exists(os.path.join(TOP, include)):
                continue
            if not may_include(mine, include, owners(include, targets)):
                breaches.append(f"{path}: may not include {include}: its library is not linked, or keeps it to itself")
            if include[:-2] != path[:-2]:
                module.add(include[:-2])
                graph.setdefault(include[:-2], set())
    for group in circles(graph):
        print("a circle of includes: " + " ".join(group))
    for breach in breaches:
        print(breach)
    print(f"{files} files, {len(breaches)} breaches")
    return 1 if breaches or files < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
