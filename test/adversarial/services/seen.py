"""Writes down each request as it is seen here."""

import json
import os


def app(environ, start_response):
    header = {}
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            header[name[5:].replace("_", "-").lower()] = [value]
    line = json.dumps({
        "method": environ["REQUEST_METHOD"],
        "raw": environ["RAW_URI"].split("?")[0],
        "path": environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
        "authority": environ.get("HTTP_HOST", ""),
        "header": header,
        "body": environ["wsgi.input"].read().decode("latin-1"),
    })
    with open(os.environ["SEEN"], "ab", buffering=0) as seen:
        seen.write(line.encode() + b"\n")
    start_response("200 OK", [("Content-Length", "0")])
    return []
