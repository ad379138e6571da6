"""An ASGI service that opts in: `uvicorn asgi:app`. It answers with its tenant, and with what the back it calls was told."""

import asyncio
import contextvars
import os

import httpx

import tenantmesh

client = httpx.AsyncClient(event_hooks={"request": [tenantmesh.sign_async]}, timeout=30)


async def ask():
    return (await client.get(f"{os.environ['BACK']}/x")).text


async def service(scope, receive, send):
    status, answer = 200, ""
    try:
        # A task has its maker's context, unless it is given another.
        task = asyncio.create_task(ask(), context=contextvars.Context() if scope["path"] == "/lost" else None)
        answer = f"{tenantmesh.current.get().id} {await task}"
    except tenantmesh.Tenantless as e:
        status, answer = 418, str(e)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": answer.encode()})


app = tenantmesh.ASGI(service, tenantmesh.Verifier(os.environ["SIDECAR"]))
