#!/usr/bin/env python3
"""Reads every #include of ours and of the vendors' headers, and keeps the walls: includes run downward between the rooms, and each
vendor's header stays in the few files that own what it brings. Prints every breach; exit status 1 where there is one."""
import os
import re
import sys

# A room is a list of modules; each may include its own room and the rooms named.
ROOMS = {
    "text": (["proto/text", "proto/standard"], []),
    "wire": (["proto/limits", "proto/frame"], []),
    "scan": (["proto/scan", "proto/rule_table", "proto/wire"], ["wire"]),
    "base": (["daemon/memory", "daemon/bytes", "daemon/clock", "daemon/host", "daemon/duration", "daemon/logging", "daemon/metrics"], ["text"]),
    "tables": (["daemon/index", "daemon/deadline", "daemon/table", "daemon/link"], ["base"]),
    "record": (["daemon/record"], ["base", "wire"]),
    "store": (["daemon/store", "daemon/places", "daemon/worker", "daemon/mapped", "daemon/ahead", "daemon/apply", "daemon/merge", "daemon/log", "daemon/slot", "daemon/load", "daemon/batch", "daemon/tables",
               "daemon/directory", "daemon/origin", "daemon/disk", "daemon/check"], ["base", "record", "wire", "text"]),
    "rules": (["daemon/rules"], ["base", "record", "wire"]),
    "engine": (["daemon/engine", "daemon/operation", "daemon/space", "daemon/binding", "daemon/lives", "daemon/parked", "daemon/decide", "daemon/listing", "daemon/values"],
               ["rules", "store", "tables", "record", "base", "wire"]),
    "service": (["daemon/service", "daemon/request", "daemon/response", "daemon/arena", "daemon/held", "daemon/notes"],
                ["engine", "rules", "store", "tables", "record", "base", "scan", "wire"]),
    "sockets": (["daemon/conn", "daemon/listener"], ["service", "engine", "store", "tables", "base", "wire"]),
    "server": (["daemon/server", "daemon/main", "daemon/options"],
               ["sockets", "service", "engine", "rules", "store", "record", "tables", "base", "wire", "text"]),
    "client": (["client/"], ["wire", "text"]),
    "examples": (["examples/"], ["client"]),
    "bench": (["bench/"], ["store", "record", "base", "wire"]),
}

# Who may include a vendor's header: a prefix of the file's path.
VENDORS = {
    "ev.h": ["daemon/conn.h", "daemon/server.c", "bench/"],
    "lmdb.h": ["daemon/store.c", "daemon/tables", "daemon/check"],
    "xxhash.h": ["proto/scan", "daemon/record", "daemon/tables", "daemon/batch", "daemon/slot", "daemon/operation",
                 "daemon/check"],
    "idem/v1/idem.pb-c.h": ["proto/", "daemon/request", "daemon/response", "daemon/service.c", "client/", "bench/"],
    "uuid/uuid.h": ["client/"],
    "uuid.h": ["client/"],
    "sha2.h": ["client/"],
}


def room_of(path):
    module = os.path.splitext(path)[0]
    best = None
    for room, (modules, _) in ROOMS.items():
        for name in modules:
            exact = module == name or (name.endswith("/") and module.startswith(name)) or module.startswith(name + "_")
            if exact and (best is None or len(name) > best[1]):
                best = (room, len(name))
    return best and best[0]


def main():
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    breaches, files = [], 0
    for folder in ("proto", "daemon", "client", "examples", "bench"):
        for root, _, names in os.walk(os.path.join(top, folder)):
            for name in sorted(names):
                if not name.endswith((".c", ".h")):
                    continue
                path = os.path.relpath(os.path.join(root, name), top)
                room = room_of(path)
                files += 1
                if room is None:
                    breaches.append(f"{path}: in no room")
                    continue
                text = open(os.path.join(top, path), encoding="utf-8").read()
                includes = re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', text, re.M)
                own = path[:-2] + ".h"
                if name.endswith(".c") and own in includes and includes[0] != own:
                    breaches.append(f"{path}: includes {includes[0]} before its own header")
                for include in includes:
                    if include in VENDORS and not path.startswith(tuple(VENDORS[include])):
                        breaches.append(f"{path}: {include} is behind another wall")
                    target = room_of(include) if "/" in include and os.path.exists(os.path.join(top, include)) else None
                    if target and target != room and target not in ROOMS[room][1]:
                        breaches.append(f"{path} ({room}): may not include {include} ({target})")
    for breach in breaches:
        print(breach)
    print(f"{files} files, {len(breaches)} breaches")
    return 1 if breaches or files < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
