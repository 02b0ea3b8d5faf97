#!/usr/bin/env python3
"""Makes the frames of proto/vectors/, and those that PROTOCOL.md shows, from the one list in conversation.py.

    vectors.py            checks that files and document say what the list says
    vectors.py --write    writes them

The document marks a place by <!-- frames: call NAME --> and <!-- end of frames -->. This program writes what is between: the first
request and the first answer of that call, read aloud field by field."""
import json
import os
import re
import sys

from conversation import vectors
from messages import DOCUMENT, VECTORS, pb
from reading import read

MARK = re.compile(r"(<!-- frames: call ([a-z]+) -->\n).*?(<!-- end of frames -->)", re.S)


def by_kind():
    kinds = {}
    for vector in vectors():
        kinds.setdefault(vector["name"].split(".")[0], []).append(vector)
    return kinds


def aloud(vector):
    kind = pb.Request if vector["direction"] == "request" else pb.Response
    return f"`{vector['name']}`\n\n```frame\n{read(bytes.fromhex(vector['hex']), kind.DESCRIPTOR)}\n```\n\n"


def made(document):
    kinds = by_kind()
    return MARK.sub(lambda mark: mark[1] + "\n" + "".join(aloud(vector) for vector in kinds[mark[2]][:2]) + mark[3], document)


def files():
    return {kind + ".json": json.dumps(content, indent=1) + "\n" for kind, content in by_kind().items()}


def write():
    os.makedirs(VECTORS, exist_ok=True)
    for name in set(os.listdir(VECTORS)) - set(files()):
        os.remove(os.path.join(VECTORS, name))
    for name, content in files().items():
        with open(os.path.join(VECTORS, name), "w", encoding="utf-8") as file:
            file.write(content)
    with open(DOCUMENT, encoding="utf-8") as file:
        document = made(file.read())
    with open(DOCUMENT, "w", encoding="utf-8") as file:
        file.write(document)


def differences():
    with open(DOCUMENT, encoding="utf-8") as file:
        document = file.read()
    out = [] if made(document) == document else ["PROTOCOL.md"]
    out += [name for name in set(os.listdir(VECTORS)) ^ set(files())]
    for name, content in files().items():
        path = os.path.join(VECTORS, name)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                out += [] if file.read() == content else [name]
    return sorted(set(out))


def main():
    if sys.argv[1:] == ["--write"]:
        write()
    elif different := differences():
        sys.exit(f"not what vectors.py --write makes: {', '.join(different)}")


if __name__ == "__main__":
    main()
