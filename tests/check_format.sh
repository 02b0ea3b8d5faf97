#!/bin/sh
# Every C file of ours is as clang-format has it. It leaves comments alone, so their length is checked apart.
cd "$(dirname "$0")/.." || exit 1
# Not from git: a copy of the files without it, or without the right to read it, is checked too.
files() { find bench client daemon examples proto tests -name '*.[ch]' "$@"; }
files -print0 | xargs -0 clang-format --dry-run -Werror || exit 1
if files -exec env LC_ALL=C.UTF-8 grep -nHE '^.{121,}' {} +; then
    echo "longer than 120 columns" >&2
    exit 1
fi
