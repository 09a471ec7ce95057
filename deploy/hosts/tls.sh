#!/usr/bin/env bash
# tls.sh DIRECTORY: make a certificate authority, certificates for scheduler, workers and clients, and the dask.yaml
# that names them. What exists is kept, so that more machines can be added later.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 1 ] || { echo "usage: tls.sh DIRECTORY   (for instance: tls.sh /etc/dem)" >&2; exit 2; }
command -v openssl >/dev/null || { echo "tls.sh: openssl is not installed" >&2; exit 2; }
umask 077
mkdir -p "$1"
directory=$(cd "$1" && pwd)
cd "$directory"

days=3650
# All extensions are spelled out: the system's openssl.cnf differs between machines, and Python 3.13 wants them.
settings='
[req]
distinguished_name = name
prompt = no
[name]
CN = dem cluster CA
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[member]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
'
new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

if [ ! -e ca.pem ]; then
    new_key ca-key.pem
    openssl req -x509 -new -key ca-key.pem -sha256 -days "$days" \
        -config <(echo "$settings") -extensions authority -out ca.pem
fi
for role in scheduler worker client; do
    [ ! -e "$role.pem" ] || continue
    new_key "$role-key.pem"
    openssl req -new -key "$role-key.pem" -config <(echo "$settings") -subj "/CN=dem $role" |
        openssl x509 -req -sha256 -days "$days" -CA ca.pem -CAkey ca-key.pem -set_serial "0x$(openssl rand -hex 16)" \
            -extfile <(echo "$settings") -extensions member -out "$role.pem" 2>/dev/null
done
[ -e dask.yaml ] || sed "s|/etc/dem|$directory|g" "$here/dask.yaml" >dask.yaml
echo "made in $directory: copy all of it but ca-key.pem to the same folder of every machine"
