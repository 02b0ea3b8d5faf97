#!/usr/bin/env python3
"""Installs the build into a folder of its own, and builds a consumer against it by pkg-config and by CMake's find_package; each runs.
The shared library exports what client/libidem.symbols lists, and nothing else."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenario"))
from harness import BUILD, TOP, temporary_folder  # noqa: E402

FLAGS = os.environ.get("IDEM_TEST_CFLAGS", "")
SOURCE = """#include <idem.h>
#include <stdio.h>
int main(void)
{
    char key[IDEM_KEY_CHARS];
    idem_client *client;
    if (idem_key_v7(key) != IDEM_OK || idem_open(NULL, &client) != IDEM_OK)
        return 1;
    idem_close(client);
    puts(idem_error_name(IDEM_OK));
    return 0;
}
"""
CMAKE = """cmake_minimum_required(VERSION 3.21)
project(consumer C)
find_package(idem REQUIRED)
add_executable(consumer consumer.c)
target_link_libraries(consumer PRIVATE idem::idem)
"""


def run(*command, **how):
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **how)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def exported(library):
    lines = run("nm", "--dynamic", "--defined-only", library).splitlines()
    return sorted(line.split()[2].split("@")[0] for line in lines if line.split()[1] in "TDBR")


def main():
    with temporary_folder() as folder:
        prefix, source = os.path.join(folder, "usr"), os.path.join(folder, "source")
        os.mkdir(source)
        run("cmake", "--install", BUILD, "--prefix", prefix)
        lib = next(root for root, _, names in os.walk(prefix) if "libidem.so" in names)
        for path in ("sbin/idemd", "bin/idem", "include/idem.h", "share/man/man8/idemd.8",
                     "share/bash-completion/completions/idem"):
            assert os.path.exists(os.path.join(prefix, path)), path
        with open(os.path.join(TOP, "client", "libidem.symbols"), encoding="utf-8") as kept:
            assert exported(os.path.join(lib, "libidem.so")) == kept.read().split()

        with open(os.path.join(source, "consumer.c"), "w", encoding="utf-8") as out:
            out.write(SOURCE)
        with open(os.path.join(source, "CMakeLists.txt"), "w", encoding="utf-8") as out:
            out.write(CMAKE)
        run("cmake", "-G", "Ninja", "-S", source, "-B", folder + "/cmake", "-DCMAKE_PREFIX_PATH=" + prefix, "-DCMAKE_C_FLAGS=" + FLAGS)
        run("cmake", "--build", folder + "/cmake")
        assert run(folder + "/cmake/consumer") == "IDEM_OK\n"

        config = {**os.environ, "PKG_CONFIG_PATH": os.path.join(lib, "pkgconfig")}
        # It was installed elsewhere than it was configured for, as a package build does, and is found there.
        flags = run("pkg-config", "--cflags", "--libs", "libidem", env=config).split()
        run("cc", "-std=c11", *FLAGS.split(), os.path.join(source, "consumer.c"), "-o", folder + "/consumer", *flags,
            "-Wl,-rpath," + lib)
        assert run(folder + "/consumer") == "IDEM_OK\n"
    print("ok")


if __name__ == "__main__":
    sys.exit(main())
