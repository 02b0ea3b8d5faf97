#!/bin/sh
# script/setup waits while another apt holds a lock, and says what apt said where that does not help. The commands that it runs are
# stand-ins here: nothing is installed.
set -u
setup=$(cd "$(dirname "$0")/.." && pwd)/script/setup
work=$(mktemp -d) || exit 1

fail() {
    echo "$1; its folder is kept: $work" >&2
    exit 1
}

# stand_in NAME: a command of that name, which runs what is on standard input.
stand_in() {
    { echo '#!/bin/sh' && cat; } >"$work/$1" && chmod +x "$work/$1"
}

stand_in id <<'END'
echo 0
END
stand_in dpkg-query <<'END'
exit 1
END
stand_in sleep <<'END'
END
stand_in apt-get <<END
echo "\$*" >>"$work/calls"
if [ -s "$work/locked" ]; then
    sed -i 1d "$work/locked"
    echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 17 (apt-get)' >&2
    exit 100
fi
case \$* in *unknown*) echo 'E: Unable to locate package unknown' >&2; exit 100 ;; esac
END

printf '1\n2\n3\n' >"$work/locked"
PATH="$work:$PATH" "$setup" --build >"$work/out" 2>&1 || fail "it did not wait: $(cat "$work/out")"
[ "$(wc -l <"$work/calls")" = 4 ] || fail "it called apt-get otherwise than four times"
grep -q 'DPkg::Lock::Timeout=.* install .*libmd-dev' "$work/calls" || fail "it installed something else"

sed 's/^build=.*/build=unknown/' "$setup" >"$work/setup"
! PATH="$work:$PATH" sh "$work/setup" --build >"$work/out" 2>&1 || fail "it took a failure for a success"
grep -q 'Unable to locate package unknown' "$work/out" || fail "it did not say why: $(cat "$work/out")"
rm -r "$work"
