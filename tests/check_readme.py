#!/usr/bin/env python3
"""Compiles the C example of README.md as it stands there, and runs it twice against a real daemon: the first charges, the second is told
so. Also: every file that README names is there."""
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenario"))
from harness import BUILD, Daemon, TOP  # noqa: E402


def main():
    readme = open(os.path.join(TOP, "README.md"), encoding="utf-8").read()
    code = re.findall(r"^```c\n(.*?)^```", readme, re.M | re.S)
    assert len(code) == 1, "one C example"
    for path in re.findall(r"`((?:proto|daemon|client|examples|tests|script|bench)/[\w./]*)`", readme):
        assert os.path.exists(os.path.join(TOP, path)), path + " is not there"
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "example.c"), os.path.join(folder, "example")
        open(source, "w").write(code[0])
        flags = os.environ.get("IDEM_TEST_CFLAGS", "").split()
        subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", *flags, "-I" + os.path.join(TOP, "client"), source,
                        "-o", program, "-L" + os.path.join(BUILD, "client"), "-lidem",
                        "-Wl,-rpath," + os.path.join(BUILD, "client")], check=True)
        daemon = Daemon()
        try:
            said = [subprocess.run([program], env={**os.environ, "IDEM_ADDRESS": daemon.addresses[0]}, check=True,
                                   capture_output=True, timeout=60, text=True).stdout for _ in range(2)]
        finally:
            daemon.close()
    assert said == ["charged: receipt 17\n", "had been charged: receipt 17\n"], said
    print("ok")


if __name__ == "__main__":
    main()
