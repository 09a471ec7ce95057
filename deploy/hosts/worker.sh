#!/usr/bin/env bash
# worker.sh SCHEDULER ADDRESS [OPTION...]: keep Dask workers with TLS running on ADDRESS, an address of this machine.
# Options go to `dask worker`; without any there is one process of one thread per core.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 2 ] || {
    echo "usage: worker.sh SCHEDULER ADDRESS [OPTION...]   (for instance: worker.sh tls://10.0.0.1:8786 10.0.0.2)" >&2
    exit 2
}
scheduler=$1
address=$2
shift 2

export DASK_CONFIG=${DASK_CONFIG:-/etc/dem/dask.yaml}
[ -r "$DASK_CONFIG" ] || { echo "worker.sh: cannot read $DASK_CONFIG; make it with tls.sh or set DASK_CONFIG" >&2; exit 2; }
[ $# -gt 0 ] || set -- --nworkers "$(getconf _NPROCESSORS_ONLN)"

# One thread per process: dem's arithmetic holds the interpreter for a good part of the time. A worker that finds no
# scheduler for a minute ends, and the supervisor tries again.
exec "$here/supervise.sh" "${PYTHON:-python3}" -m dask worker "$scheduler" \
    --protocol tls --host "$address" --nthreads 1 --death-timeout 60 \
    --no-dashboard --dashboard-address 127.0.0.1:0 "$@"
