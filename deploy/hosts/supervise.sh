#!/usr/bin/env bash
# supervise.sh COMMAND...: run COMMAND, and again whenever it ends, until this script is told to stop (TERM or INT).
#
# A Dask worker that lost its scheduler for long ends and does not come back by itself. A command that lived for less
# than a minute is started again after a pause: 1 s, 2 s, 4 s, ... at most 30 s.
set -uo pipefail
set -m # each command becomes a process group, so that nothing of it can be left behind

grace=${SUPERVISE_GRACE:-15} # seconds that a command gets to end by itself
longest_pause=30
child=
stopping=

say() { echo "$(date +%FT%T%z) supervise[$$]: $*" >&2; }
group_lives() { [ -n "$child" ] && kill -0 -- "-$child" 2>/dev/null; }

stop() {
    stopping=yes
    trap '' TERM INT
    if group_lives; then
        kill -TERM "$child" 2>/dev/null # the leader alone: it ends its own processes in order
        local deadline=$((SECONDS + grace))
        while group_lives && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
        kill -KILL -- "-$child" 2>/dev/null
    fi
    say "stopped"
    exit 0
}
trap stop TERM INT

[ $# -gt 0 ] || { echo "usage: supervise.sh COMMAND..." >&2; exit 2; }

pause=1
while true; do
    started=$SECONDS
    "$@" </dev/null &
    child=$!
    wait "$child"
    status=$?
    [ -z "$stopping" ] || exit 0
    kill -KILL -- "-$child" 2>/dev/null # what an abrupt end may have left
    [ $((SECONDS - started)) -lt 60 ] || pause=1
    say "'$*' ended with status $status; again in $pause s"
    sleep "$pause" &
    child=$!
    wait "$child"
    pause=$((pause * 2 < longest_pause ? pause * 2 : longest_pause))
done
