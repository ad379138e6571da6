"""A service that calls the next one: in turn, by tasks that take their context along, and by work that does not.

It knows no tenant. "mark" is the test's: what the next service is told by the mesh is compared with it.
"""

import asyncio
import contextvars
import os

import httpx
from fastapi import FastAPI, Request

app = FastAPI()
NEXT = os.environ["NEXT"]
TURNS, TASKS, BARE = (int(os.environ.get(name, "0")) for name in ("TURNS", "TASKS", "BARE"))

client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=200, max_keepalive_connections=64))


async def call(mark):
    answer = await client.get(f"{NEXT}/work", params={"mark": mark})
    if answer.status_code == 200:
        below = answer.json()
        return {"proven": 1 + below["proven"], "refused": below["refused"], "wrong": below["wrong"]}
    if answer.status_code == 403 and "x-tenantmesh-reason" in answer.headers:
        return {"proven": 0, "refused": 1, "wrong": 0}
    raise RuntimeError(f"{answer.status_code} {answer.headers.get('x-tenantmesh-reason')} {answer.text[:200]}")


@app.get("/work")
async def work(mark: str, request: Request):
    total = {"proven": 0, "refused": 0, "wrong": int(request.headers.get("X-Tenant-Id") != mark)}
    asked = [asyncio.create_task(call(mark)) for _ in range(TASKS)]
    asked += [asyncio.create_task(call(mark), context=contextvars.Context()) for _ in range(BARE)]
    for result in [await call(mark) for _ in range(TURNS)] + await asyncio.gather(*asked):
        for name in total:
            total[name] += result[name]
    return total
