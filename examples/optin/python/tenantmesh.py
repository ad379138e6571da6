"""Whose request this is, from its signed context: WSGI and ASGI middleware, and a hook for clients. It does what identity/propagation does in Go.

The Workload must say deliverContext. Nothing of it is needed in the mesh: docs/optin.md.
"""

import asyncio
import base64
import contextvars
import json
import re
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPException

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HEADER = "txn-token"
SKEW, LIFETIME = 30, 15 * 60  # seconds: how far clocks may be apart, and the longest life of a context
KNOWN, REST = 10, 1  # seconds: how long keys are used before they are asked for again, and how often that may be
MAX_CONTEXT, MAX_KEYS = 8 << 10, 16 << 20  # bytes


class Refused(Exception):
    """The request brings no context, several, or one that is forged, foreign or over."""

    status = "403 Forbidden"


class UnknownKey(Refused):
    """The context is signed by a key that is not known, or newer than those that are."""


class UnknownKeys(Exception):
    """Nobody says by which keys to verify."""

    status = "503 Service Unavailable"


class Tenantless(Exception):
    """A call goes out for no tenant."""


@dataclass(frozen=True)
class Tenant:
    id: str
    uid: str  # of this incarnation
    tier: str
    cell: str
    txn: str  # of the transaction
    context: str = field(repr=False)  # the signed context itself


current = contextvars.ContextVar("tenant")  # of the request that is served; unset where none was proven


def outbound(where):
    """The context that a call goes out with; where says what is called."""
    tenant = current.get(None)
    if tenant is None:
        raise Tenantless(f"tenantless outbound call: {where}, in a context that is no request's")
    return tenant.context


def sign(request):
    """A request hook of httpx.Client, or the auth of requests."""
    request.headers[HEADER] = outbound(f"{request.method} {str(request.url).partition('?')[0]}")
    return request


async def sign_async(request):
    """A request hook of httpx.AsyncClient."""
    sign(request)


class Verifier:
    """Verifies by the keys that the sidecar at url tells, such as http://127.0.0.1:15021. They stay good while it is away, each until its end."""

    def __init__(self, url):
        self._url = url + "/contextkeys"
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._lock = threading.Lock()
        self._known, self._asked, self._error = None, float("-inf"), None

    def verify(self, contexts):
        if len(contexts) != 1:
            raise Refused(f"the request must carry one tenant context (got {len(contexts)})")
        try:
            try:
                return _read(contexts[0], *self._keys(False))
            except UnknownKey:
                return _read(contexts[0], *self._keys(True))
        except (ValueError, RecursionError) as e:  # of base64, UTF-8 and JSON
            raise Refused("the tenant context is not accepted: it is malformed") from e

    def _keys(self, fresh):
        with self._lock:
            now = time.monotonic()
            if now - self._asked > (REST if fresh or self._known is None else KNOWN):
                self._asked = now
                try:
                    self._known = self._ask()
                except (OSError, HTTPException, ValueError, KeyError, TypeError) as e:
                    self._error = e
            if self._known is None:
                raise UnknownKeys(f"the mesh's keys are not known: {self._error}")
            return self._known

    def _ask(self):
        with self._direct.open(self._url, timeout=2) as answer:
            said = json.loads(answer.read(MAX_KEYS))
        if not said["trustDomain"]:
            raise ValueError("the sidecar has no configuration yet")
        return said["trustDomain"], {key["kid"]: _Key(key) for key in said["keys"]}


class _Key:
    def __init__(self, said):
        self.public = Ed25519PublicKey.from_public_bytes(base64.b64decode(said["publicKey"], validate=True))
        self.principal, self.not_after = said["principal"], datetime.fromisoformat(said["notAfter"]).timestamp()
        self.gateway, self.only = said.get("gateway") is True, (said.get("cell"), said.get("tenant"))

    def may_sign(self, cell, tenant):
        return self.gateway or all(self.only) and self.only == (cell, tenant)


def _read(context, trust_domain, keys):
    """The tenant of a context: a compact JWS (RFC 7515) under Ed25519, in which nothing may be that is not known."""
    _require(len(context) <= MAX_CONTEXT and context.count(".") == 2, "it is not one compact JWS")
    signed, _, signature = context.rpartition(".")
    header, payload = map(_decode, signed.split("."))
    header = _members(header, alg=str, typ=str, kid=str)
    _require(header["alg"] == "EdDSA" and header["typ"] == "txntoken+jwt", "alg must be EdDSA, and typ txntoken+jwt")
    key = keys.get(header["kid"])
    if key is None:
        raise UnknownKey("the tenant context is not accepted: its key is not in force")
    try:
        key.public.verify(_decode(signature), signed.encode())
    except InvalidSignature as e:
        raise Refused("the tenant context is not accepted: the signature does not match its key") from e
    claims = _members(payload, iss=str, aud=str, iat=int, exp=int, txn=str, sub=str, tctx=dict)
    of = _members(claims["tctx"], tenant=str, uid=str, tier=str, cell=str, epoch=int, role=str, purpose=str, keys=list)
    now = time.time()
    _require(claims["txn"] and of["uid"] and of["cell"] and of["epoch"] >= 1, "txn, uid, cell and epoch must be set")
    _require(re.fullmatch("[a-z0-9-]{1,63}", of["tenant"]), "tenant must be a name")
    _require(of["role"] in ("owner", "replica") and of["purpose"] in ("request", "job", "export"), "role and purpose must be known")
    _require(claims["aud"] == trust_domain, "it is for another trust domain")
    _require(claims["iss"] == key.principal and key.may_sign(of["cell"], of["tenant"]), "its signer may not sign it")
    _require(0 < claims["exp"] - claims["iat"] <= LIFETIME and claims["iat"] <= now + SKEW, "iat and exp must be a context's")
    _require(now < claims["exp"] and now < key.not_after, "it is over")
    return Tenant(of["tenant"], of["uid"], of["tier"], of["cell"], claims["txn"], context)


def _require(good, what):
    if not good:
        raise Refused(f"the tenant context is not accepted: {what}")


def _decode(part):
    text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(text).rstrip(b"=").decode() != part:
        raise ValueError("must be base64url without padding")
    return text


def _once(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a member is there twice")
    return dict(pairs)


def _members(of, **kinds):
    """The members of an object, each of its kind, and the empty one where it is absent."""
    if isinstance(of, bytes):
        of = json.loads(of.decode(), object_pairs_hook=_once)
    _require(isinstance(of, dict) and of.keys() <= kinds.keys() and all(type(of[name]) is kinds[name] for name in of), "it must hold what is known")
    return {name: of.get(name, kind()) for name, kind in kinds.items()}


class WSGI:
    def __init__(self, app, verifier):
        self._app, self._verifier = app, verifier

    def __call__(self, environ, start_response):
        sent = environ.get("HTTP_TXN_TOKEN")
        try:
            tenant = self._verifier.verify([] if sent is None else sent.split(","))
        except (Refused, UnknownKeys) as e:
            start_response(e.status, [("Content-Type", "text/plain; charset=utf-8"), ("Retry-After", "1")][: 1 + isinstance(e, UnknownKeys)])
            return [f"{e}\n".encode()]
        context = contextvars.copy_context()
        context.run(current.set, tenant)
        return _Body(context, context.run(self._app, environ, start_response))


class _Body:
    """What an app answers, made in its request's context."""

    def __init__(self, context, body):
        self._context, self._body, self._parts = context, body, context.run(iter, body)

    def __iter__(self):
        return self

    def __next__(self):
        return self._context.run(next, self._parts)

    def close(self):
        if hasattr(self._body, "close"):
            self._context.run(self._body.close)


class ASGI:
    def __init__(self, app, verifier):
        self._app, self._verifier = app, verifier

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        try:
            sent = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == HEADER.encode()]
            tenant = await asyncio.to_thread(self._verifier.verify, sent)  # it may have to ask the sidecar
        except (Refused, UnknownKeys) as e:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"1")][: 1 + isinstance(e, UnknownKeys)]
            await send({"type": "http.response.start", "status": int(e.status[:3]), "headers": headers})
            return await send({"type": "http.response.body", "body": f"{e}\n".encode()})
        was = current.set(tenant)
        try:
            await self._app(scope, receive, send)
        finally:
            current.reset(was)
