#!/usr/bin/env bash
# scheduler.sh ADDRESS [PORT]: keep a Dask scheduler with TLS running on ADDRESS, an address of this machine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 1 ] || { echo "usage: scheduler.sh ADDRESS [PORT]   (for instance: scheduler.sh 10.0.0.1)" >&2; exit 2; }
address=$1
port=${2:-8786}

export DASK_CONFIG=${DASK_CONFIG:-/etc/dem/dask.yaml}
[ -r "$DASK_CONFIG" ] || { echo "scheduler.sh: cannot read $DASK_CONFIG; make it with tls.sh or set DASK_CONFIG" >&2; exit 2; }

# The status pages are plain HTTP, so they stay on the loopback interface.
exec "$here/supervise.sh" "${PYTHON:-python3}" -m dask scheduler \
    --protocol tls --host "$address" --port "$port" \
    --no-dashboard --dashboard-address "127.0.0.1:${STATUS_PORT:-8787}"
