"""The messages of idem.proto, generated into a folder that is gone again, and frames around them. All that the tests of this folder share
with anything else of the project is idem.proto itself."""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROTO = os.path.join(TOP, "proto")
DOCUMENT = os.path.join(PROTO, "PROTOCOL.md")
VECTORS = os.path.join(PROTO, "vectors")


def _generate():
    folder = tempfile.mkdtemp(prefix="idem-pb2-")
    sys.path.insert(0, folder)
    try:
        subprocess.run(["protoc", "--proto_path=" + PROTO, "--python_out=" + folder, "idem/v1/idem.proto"], check=True, timeout=60)
        from idem.v1 import idem_pb2
        return idem_pb2
    finally:
        sys.path.remove(folder)
        shutil.rmtree(folder)


pb = _generate()


def frame(message, flag=0):
    """A whole frame: of a message, or of bytes."""
    data = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
    return struct.pack(">BI", flag, len(data)) + data


def load_vectors():
    """Name -> vector, of every file."""
    vectors = {}
    for name in sorted(os.listdir(VECTORS)):
        with open(os.path.join(VECTORS, name), encoding="utf-8") as file:
            vectors.update({vector["name"]: vector for vector in json.load(file)})
    return vectors


def conversation_of(vectors):
    """The requests of the conversation, in order."""
    return sorted((vector for vector in vectors.values() if "answered_by" in vector), key=lambda vector: int(vector["meaning"]["id"]))
