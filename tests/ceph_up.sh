#!/usr/bin/env bash
# A real Ceph object gateway (Debian packages) on loopback: 1 monitor, 1 OSD in memory, radosgw; no mgr, no systemd.
# ceph_up.sh KEY SECRET PORT MON_PORT MON_V1_PORT; its state lies in $CEPH_TEST_DIR; ceph_down.sh ends it.
set -euo pipefail
D=$CEPH_TEST_DIR; AK=$1; SK=$2
"$(dirname "$0")"/ceph_install.sh
t0=$(date +%s.%N); mkdir -p $D/{mon,osd0,run,log}
cat > $D/ceph.conf <<C
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = [v2:127.0.0.1:$4,v1:127.0.0.1:$5]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = $D/keyring
run dir = $D/run
admin socket = $D/run/\$name.asok
pid file = $D/run/\$name.pid
log file = $D/log/\$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
osd objectstore = memstore
memstore device bytes = 2147483648
osd data = $D/osd0
mon data = $D/mon
mon pg warn on no replicas = false
osd max object name len = 1024
rgw frontends = beast endpoint=127.0.0.1:$3
rgw dns name = localhost
C
export CEPH_CONF=$D/ceph.conf CEPH_ARGS="-c $D/ceph.conf"; 
ceph-authtool -C $D/keyring -n mon. --gen-key --cap mon 'allow *' >/dev/null
ceph-authtool $D/keyring -n client.admin --gen-key --cap mon 'allow *' --cap osd 'allow *' --cap mds 'allow *' --cap mgr 'allow *' >/dev/null
ceph-authtool $D/keyring -n client.rgw --gen-key --cap mon 'allow *' --cap osd 'allow *' >/dev/null
ceph-authtool $D/keyring -n osd.0 --gen-key --cap mon 'allow profile osd' --cap osd 'allow *' >/dev/null
monmaptool --create --clobber --fsid $(awk '/^fsid/{print $3}' $D/ceph.conf) --addv a "[v2:127.0.0.1:$4,v1:127.0.0.1:$5]" $D/monmap >/dev/null
ceph-mon -c $CEPH_CONF --mkfs -i a --monmap $D/monmap --keyring $D/keyring
ceph-mon -c $CEPH_CONF -i a
timeout 30 ceph osd new $(cat /proc/sys/kernel/random/uuid | tee $D/osd.uuid) >/dev/null
ceph-osd -c $CEPH_CONF -i 0 --mkfs --osd-uuid $(cat $D/osd.uuid) >/dev/null 2>&1
ceph-osd -c $CEPH_CONF -i 0 >/dev/null 2>&1
timeout 30 ceph osd crush add osd.0 1.0 host=$(hostname -s) root=default 2>/dev/null || true
timeout 60 radosgw-admin user create --uid=dem --display-name=dem --access-key=$AK --secret-key=$SK >$D/user.json 2>$D/user.err
radosgw -c $CEPH_CONF -n client.rgw
for _ in $(seq 200); do curl -s -o /dev/null http://127.0.0.1:$3 && break; sleep 0.1; done
printf 'rgw up in %.1f s\n' "$(awk "BEGIN{print $(date +%s.%N)-$t0}")"
