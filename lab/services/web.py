"""HTTP, HTTPS and HTTP/3."""

from __future__ import annotations

import sys

from lab.services.base import Command, Service, Site

__all__ = ["SERVICES"]

_NGINX = """\
daemon off; worker_processes 1; user root; pid {work}/nginx.pid; error_log {work}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; types {{ text/html html; application/octet-stream bin; }}
  client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  gzip {gzip}; gzip_types application/octet-stream; sendfile {sendfile};
  keepalive_timeout {keepalive}; client_max_body_size 4m; tcp_nodelay on;
  {tls}
  server {{
    listen {v4}:{port}{flags}; listen [{v6}]:{port}{flags};
    root {files}; error_page 405 =200 $uri;
    location /api {{ default_type application/json; return 200 '{{"ok":true,"n":{number}}}'; }}
    location /gone {{ return 404; }}
    location /moved {{ return 302 /index.html; }}
    location /slow/ {{ alias {files}/; limit_rate {limit}k; }}
  }}
}}
"""

_LIGHTTPD = """\
server.document-root = "{files}"
server.port = {port}
server.bind = "{v4}"
server.modules = ( "mod_redirect" )
url.redirect = ( "^/moved" => "/index.html", "^/slow/(.*)" => "/$1" )
server.max-keep-alive-requests = {requests}
server.max-keep-alive-idle = {keepalive}
index-file.names = ( "index.html" )
mimetype.assign = ( ".html" => "text/html", "" => "application/octet-stream" )
$SERVER["socket"] == "[{v6}]:{port}" {{ }}
"""


def _nginx(site: Site, tls: str, flags: str) -> list[Command]:
    rng = site.rng
    text = _NGINX.format(
        work=site.work,
        files=site.shared / "files",
        v4=site.endpoint.ipv4,
        v6=site.endpoint.ipv6,
        port=site.endpoint.port,
        gzip=rng.choice(["on", "off"]),
        sendfile=rng.choice(["on", "off"]),
        keepalive=rng.choice([2, 8, 65]),
        number=rng.randrange(10**6),
        limit=rng.choice([40, 120]),
        tls=tls,
        flags=flags,
    )
    conf = site.write("nginx.conf", text)
    return [Command("nginx", ["nginx", "-c", str(conf), "-p", str(site.work)])]


def _http(site: Site) -> list[Command]:
    if site.endpoint.variant == "nginx":
        return _nginx(site, "", "")
    rng = site.rng
    text = _LIGHTTPD.format(
        files=site.shared / "files",
        port=site.endpoint.port,
        v4=site.endpoint.ipv4,
        v6=site.endpoint.ipv6,
        requests=rng.choice([4, 100]),
        keepalive=rng.choice([2, 5, 30]),
    )
    conf = site.write("lighttpd.conf", text)
    return [Command("lighttpd", ["lighttpd", "-D", "-f", str(conf)])]


def _https(site: Site) -> list[Command]:
    rng = site.rng
    kind = rng.choice(["rsa", "ecdsa"])
    protocols = rng.choice(["TLSv1.2 TLSv1.3", "TLSv1.2 TLSv1.3", "TLSv1.2"])
    tls = (
        f"ssl_certificate {site.shared}/{kind}.crt; ssl_certificate_key {site.shared}/{kind}.key; "
        f"ssl_protocols {protocols}; ssl_session_tickets {rng.choice(['on', 'off'])}; "
        f"ssl_session_cache {rng.choice(['none', 'shared:s:1m'])}; "
        f"ssl_buffer_size {rng.choice(['4k', '16k'])};"
    )
    return _nginx(site, tls, rng.choice([" ssl http2", " ssl http2", " ssl"]))


def _quic(site: Site) -> list[Command]:
    kind = site.rng.choice(["rsa", "ecdsa"])
    commands = []
    for address in (site.endpoint.ipv4, site.endpoint.ipv6):
        argv = [
            sys.executable, "-m", "lab.servers.http3", address, str(site.endpoint.port),
            f"{site.shared}/{kind}.crt", f"{site.shared}/{kind}.key", f"{site.shared}/files",
            str(site.rng.random() < 0.3),
        ]  # fmt: skip
        commands.append(Command("http3", argv))
    return commands


SERVICES = (
    Service("http", 80, {"nginx": "nginx-light", "lighttpd": "lighttpd"}, _http, weight=1.3),
    Service("https", 443, {"nginx": "nginx-light"}, _https, weight=1.3),
    Service("quic", 443, {"aioquic": "aioquic"}, _quic, transports=("udp",)),
)
