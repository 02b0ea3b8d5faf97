#!/usr/bin/env python3
"""Compiles the C example of README.md and every example of idem.h as they stand there. Those that are programs are run twice against a real
daemon: the first charges, the second is told so; and once where there is none, which they say. Also: every file that README names is
there."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenario"))
from harness import BUILD, Daemon, TOP, temporary_folder  # noqa: E402


def examples_of_header(text):
    """Each run of lines of a comment that are indented by five blanks or are empty, and have code in them."""
    found = re.findall(r"(?:^ \*(?:     .*)?\n)+", text, re.M)
    return [re.sub(r"^ \*(?:     )?", "", each, flags=re.M).strip() + "\n" for each in found if re.search(r"^ \*     ", each, re.M)]


def compile_example(folder, name, code):
    """Returns the program; None if it has no main and was only compiled."""
    source, program = os.path.join(folder, name + ".c"), os.path.join(folder, name)
    with open(source, "w", encoding="utf-8") as out:
        out.write(code)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", *os.environ.get("IDEM_TEST_CFLAGS", "").split(),
             "-I" + os.path.join(TOP, "client"), source]
    if "int main(" not in code:
        subprocess.run(["cc", "-c", *flags, "-o", program + ".o"], check=True)
        return None
    subprocess.run(["cc", *flags, "-o", program, "-L" + os.path.join(BUILD, "client"), "-lidem",
                    "-Wl,-rpath," + os.path.join(BUILD, "client")], check=True)
    return program


def run(program, address):
    return subprocess.run([program], env={**os.environ, "IDEM_ADDRESS": address}, check=False, capture_output=True, timeout=60,
                          text=True)


def run_twice(program):
    daemon = Daemon()
    try:
        done = [run(program, daemon.addresses[0]) for _ in range(2)]
    finally:
        daemon.close()
    assert [each.returncode for each in done] == [0, 0], done
    return [each.stdout for each in done]


def main():
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
        readme = file.read()
    with open(os.path.join(TOP, "client", "idem.h"), encoding="utf-8") as file:
        header = file.read()
    code = re.findall(r"^```c\n(.*?)^```", readme, re.M | re.S)
    assert len(code) == 1, "one C example"
    for path in re.findall(r"`((?:proto|daemon|client|examples|tests|script|bench)/[\w./]*)`", readme):
        assert os.path.exists(os.path.join(TOP, path)), path + " is not there"
    in_header = examples_of_header(header)
    assert len(in_header) == 2, in_header
    with temporary_folder() as folder:
        of_readme = compile_example(folder, "readme", code[0])
        of_header, of_errors = (compile_example(folder, f"header{i}", each) for i, each in enumerate(in_header))
        assert of_header and not of_errors
        said = run_twice(of_readme)
        assert said == ["charged: receipt 17\n", "had been charged: receipt 17\n"], said
        said = run_twice(of_header)
        assert said == ["charging order-4711\nreceipt 17\n", "receipt 17\n"], said
        for program in (of_readme, of_header):
            nobody = run(program, "http://nowhere")
            assert nobody.returncode == 1 and nobody.stderr.startswith("IDEM_ERR_ADDRESS: http://nowhere: an address is written"), nobody
    print("ok")


if __name__ == "__main__":
    main()
