#!/bin/sh
# Every C file of ours is as clang-format has it.
cd "$(dirname "$0")/.." || exit 1
git ls-files -- '*.c' '*.h' | xargs clang-format --dry-run -Werror
