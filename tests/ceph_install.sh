#!/usr/bin/env bash
# Installs Debian's Ceph where it is missing; exit code 77: it cannot be.
set -euo pipefail
command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && exit 0
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    radosgw ceph-mon ceph-osd ceph-common >/dev/null; } || exit 77
