"""A service that calls the next one: in turn, by threads that take their context along, and by threads that do not.

It knows no tenant. "mark" is the test's: what the next service is told by the mesh is compared with it.
"""

import contextvars
import os
from concurrent.futures import ThreadPoolExecutor

import requests
from flask import Flask, jsonify, request
from requests.adapters import HTTPAdapter

app = Flask(__name__)
NEXT = os.environ["NEXT"]
TURNS, TASKS, BARE = (int(os.environ.get(name, "0")) for name in ("TURNS", "TASKS", "BARE"))

threads = ThreadPoolExecutor(64)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_maxsize=64))


def call(mark):
    answer = session.get(f"{NEXT}/work", params={"mark": mark}, timeout=30)
    if answer.status_code == 200:
        below = answer.json()
        return {"proven": 1 + below["proven"], "refused": below["refused"], "wrong": below["wrong"]}
    if answer.status_code == 403 and "x-tenantmesh-reason" in answer.headers:
        return {"proven": 0, "refused": 1, "wrong": 0}
    raise RuntimeError(f"{answer.status_code} {answer.headers.get('x-tenantmesh-reason')} {answer.text[:200]}")


@app.get("/work")
def work():
    mark = request.args["mark"]
    total = {"proven": 0, "refused": 0, "wrong": int(request.headers.get("X-Tenant-Id") != mark)}
    asked = [threads.submit(contextvars.copy_context().run, call, mark) for _ in range(TASKS)]
    asked += [threads.submit(call, mark) for _ in range(BARE)]
    for result in [call(mark) for _ in range(TURNS)] + [one.result() for one in asked]:
        for name in total:
            total[name] += result[name]
    return jsonify(total)
