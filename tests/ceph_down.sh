#!/usr/bin/env bash
# Ends what ceph_up.sh has started.
D=$CEPH_TEST_DIR
for n in client.rgw osd.0 mon.a; do f=$D/run/$n.pid; [ -f $f ] || continue; p=$(cat $f); kill $p 2>/dev/null
  for _ in $(seq 50); do kill -0 $p 2>/dev/null || break; sleep 0.1; done; kill -9 $p 2>/dev/null; done
rm -rf $D
