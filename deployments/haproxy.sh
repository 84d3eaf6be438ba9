#!/bin/sh
# Stands in HAProxy's place for Ray Serve (RAY_SERVE_HAPROXY_BINARY_PATH): it mends the configuration
# that Ray Serve wrote, which has no settings for any of this, and becomes HAProxy. What it does not
# find it leaves as it is; tests/serve/test_access.py sees that it took effect
# (docs/decisions/0028-what-strangers-may-cost.md).
set -eu

# - Statistics and metrics, for which Ray has ports but no address: on loopback.
# - A request's headers: whole within 10 s, however slowly they drip in.
# - Bytes other than printable ASCII in headers: 400. Ray decodes some headers as UTF-8 before it
#   asks the application, and would answer 500.
mark='# mended by ServeFlow'
mend='
NR == 1 { print mark }
/^[a-z]/ { section = $1 " " $2 }
section == "frontend prometheus" || section == "listen stats" {
    if ($1 == "bind") sub(/[*]?:/, "127.0.0.1:")
}
{ print }
section == "defaults " && $1 == "mode" { print "    timeout http-request 10s" }
section == "frontend http_frontend" && $1 == "bind" {
    print "    http-request deny deny_status 400 if { req.hdrs -m reg [^\\x09\\x0a\\x0d\\x20-\\x7e] }"
}
'

before=
for argument in "$@"; do
    if [ "$before" = -f ] && ! grep -qxF "$mark" "$argument"; then
        awk -v mark="$mark" "$mend" "$argument" >"$argument.mended"
        mv "$argument.mended" "$argument"
    fi
    before=$argument
done
exec "${SERVEFLOW_HAPROXY:-haproxy}" "$@"
