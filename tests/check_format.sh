#!/bin/sh
# Every C file of ours is as clang-format has it.
cd "$(dirname "$0")/.." || exit 1
# Not from git: a copy of the files without it, or without the right to read it, is checked too.
find bench client daemon examples proto tests -name '*.[ch]' -print0 | xargs -0 clang-format --dry-run -Werror
