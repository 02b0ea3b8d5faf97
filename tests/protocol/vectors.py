#!/usr/bin/env python3
"""The frames of proto/vectors/ and of PROTOCOL.md, from the one list in conversation.py.

    vectors.py            checks that files and document say what the list says
    vectors.py --write    writes them

A place in the document is marked by <!-- frames: NAME --> and <!-- end of frames -->; what stands between is written here. NAME is a call,
whose first request and answer are read aloud, or "more": all others of a kind."""
import json
import os
import re
import sys

from conversation import vectors
from messages import DOCUMENT, VECTORS, pb
from reading import read

MARK = re.compile(r"(<!-- frames: ([a-z]+)(?: ([a-z ]+))? -->\n).*?(<!-- end of frames -->)", re.S)


def by_kind():
    kinds = {}
    for vector in vectors():
        kinds.setdefault(vector["name"].split(".")[0], []).append(vector)
    return kinds


def folded(text, width=96):
    return "\n".join(text[i:i + width] for i in range(0, len(text), width))


def aloud(vector):
    kind = pb.Request if vector["direction"] == "request" else pb.Response
    return f"`{vector['name']}`\n\n```frame\n{read(bytes.fromhex(vector['hex']), kind.DESCRIPTOR)}\n```\n\n"


def plain(vector):
    text = f"`{vector['name']}`"
    if "answered_by" in vector:
        text += f", answered by `{vector['answered_by']}`"
    if "says" in vector:
        text += f" - {vector['says']}"
    if vector["meaning"] is not None:
        text += f"\n\n```json\n{json.dumps(vector['meaning'])}\n```"
    return f"{text}\n\n```hex\n{folded(vector['hex'])}\n```\n\n"


def shown(name, which, kinds):
    if name == "call":
        return "".join(aloud(vector) for vector in kinds[which][:2])
    return "".join(plain(vector) for kind in which.split() for vector in kinds[kind][2 if kind in CALLS else 0:])


CALLS = [field.name for field in pb.Request.DESCRIPTOR.oneofs_by_name["call"].fields]


def made(document):
    kinds = by_kind()
    return MARK.sub(lambda mark: mark[1] + "\n" + shown(mark[2], mark[3], kinds) + mark[4], document)


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
