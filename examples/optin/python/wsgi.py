"""A WSGI service that opts in: `python wsgi.py PORT`. It answers with its tenant, and with what the back it calls was told."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from wsgiref.simple_server import make_server

import httpx

import tenantmesh

client = httpx.Client(event_hooks={"request": [tenantmesh.sign]}, timeout=30)
threads = ThreadPoolExecutor(1)


def ask():
    return client.get(f"{os.environ['BACK']}/x").text


def app(environ, start_response):
    try:
        # A thread of a pool has no request's context, unless it is given one.
        answer = threads.submit(ask).result() if environ["PATH_INFO"] == "/lost" else ask()
    except tenantmesh.Tenantless as e:
        start_response("418 I'm a teapot", [])
        return [str(e).encode()]
    start_response("200 OK", [])
    return (part.encode() for part in (tenantmesh.current.get().id, " ", answer))


if __name__ == "__main__":
    verifier = tenantmesh.Verifier(os.environ["SIDECAR"])
    make_server("127.0.0.1", int(sys.argv[1]), tenantmesh.WSGI(app, verifier)).serve_forever()
