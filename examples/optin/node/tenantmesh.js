// Whose request this is, from its signed context: middleware of Express, Connect and plain http servers, and a hook for clients. It does what
// identity/propagation does in Go, by Node.js' own modules.
//
// The Workload must say deliverContext. Nothing of it is needed in the mesh: docs/optin.md.
"use strict";

const { AsyncLocalStorage } = require("node:async_hooks");
const crypto = require("node:crypto");
const http = require("node:http");

const HEADER = "txn-token";
const SKEW = 30; // seconds: how far clocks may be apart
const LIFETIME = 15 * 60; // seconds: the longest life of a context
const KNOWN = 10_000; // ms: how long keys are used before they are asked for again
const REST = 1_000; // ms: how often that may be
const MAX_CONTEXT = 8 << 10; // bytes
const MAX_KEYS = 16 << 20; // bytes

class Refused extends Error {
  status = 403;
  constructor(what, unknownKey = false) {
    super(what);
    this.unknownKey = unknownKey;
  }
}
class UnknownKeys extends Error {
  status = 503;
}
class Tenantless extends Error {}

const storage = new AsyncLocalStorage();

/** The tenant of the request that is served: id, uid, tier, cell and txn; undefined where none was proven. */
const current = () => storage.getStore();

/** The context that a call goes out with; where says what is called. */
function outbound(where) {
  const tenant = current();
  if (!tenant) throw new Tenantless(`tenantless outbound call: ${where}, in a context that is no request's`);
  return tenant.context;
}

/** A request interceptor of axios: client.interceptors.request.use(sign). */
function sign(config) {
  config.headers.set(HEADER, outbound(`${(config.method ?? "get").toUpperCase()} ${config.baseURL ?? ""}${config.url}`.split("?")[0]));
  return config;
}

/** Verifies by the keys that the sidecar at url tells, such as http://127.0.0.1:15021. They stay good while it is away, each until its end. */
class Verifier {
  #url;
  #known;
  #asked = -Infinity;
  #asking = Promise.resolve();
  #error;

  constructor(url) {
    this.#url = `${url}/contextkeys`;
  }

  async verify(contexts) {
    if (contexts.length !== 1) throw new Refused(`the request must carry one tenant context (got ${contexts.length})`);
    try {
      return read(contexts[0], await this.#keys(false));
    } catch (e) {
      if (!e.unknownKey) throw e;
    }
    return read(contexts[0], await this.#keys(true));
  }

  async #keys(fresh) {
    const now = performance.now();
    if (now - this.#asked > (fresh || !this.#known ? REST : KNOWN)) {
      this.#asked = now;
      this.#asking = ask(this.#url).then((known) => (this.#known = known), (e) => (this.#error = e));
    }
    await this.#asking;
    if (!this.#known) throw new UnknownKeys(`the mesh's keys are not known: ${this.#error?.message}`);
    return this.#known;
  }
}

function ask(url) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent: new http.Agent(), signal: AbortSignal.timeout(2_000) }, async (answer) => {
      try {
        if (answer.statusCode !== 200) throw new Error(`the sidecar answers ${answer.statusCode}`);
        let text = "";
        for await (const part of answer.setEncoding("utf8")) {
          text += part;
          if (text.length > MAX_KEYS) throw new Error("the sidecar tells too much");
        }
        const { trustDomain, keys } = JSON.parse(text);
        if (!trustDomain) throw new Error("the sidecar has no configuration yet");
        resolve({ trustDomain, keys: new Map(keys.map((key) => [key.kid, keyOf(key)])) });
      } catch (e) {
        reject(e);
      }
    });
    request.on("error", reject);
  });
}

function keyOf({ publicKey, principal, gateway, cell, tenant, notAfter }) {
  const jwk = { kty: "OKP", crv: "Ed25519", x: Buffer.from(publicKey, "base64").toString("base64url") };
  return {
    public: crypto.createPublicKey({ key: jwk, format: "jwk" }),
    principal,
    notAfter: Date.parse(notAfter) / 1000,
    maySign: (of) => gateway === true || Boolean(cell && tenant && cell === of.cell && tenant === of.tenant),
  };
}

/** The tenant of a context: a compact JWS (RFC 7515) under Ed25519, in which nothing may be that is not known. */
function read(context, { trustDomain, keys }) {
  const parts = context.split(".");
  must(context.length <= MAX_CONTEXT && parts.length === 3, "it is not one compact JWS");
  const [headerText, payload, signature] = parts.map(decode);
  const header = members(parse(headerText), { alg: "", typ: "", kid: "" });
  must(header.alg === "EdDSA" && header.typ === "txntoken+jwt", "alg must be EdDSA, and typ txntoken+jwt");
  const key = keys.get(header.kid);
  if (!key) throw new Refused("the tenant context is not accepted: its key is not in force", true);
  const signed = Buffer.from(`${parts[0]}.${parts[1]}`);
  must(crypto.verify(null, signed, key.public, signature), "the signature does not match its key");
  const claims = members(parse(payload), { iss: "", aud: "", iat: 0, exp: 0, txn: "", sub: "", tctx: {} });
  const of = members(claims.tctx, { tenant: "", uid: "", tier: "", cell: "", epoch: 0, role: "", purpose: "", keys: [] });
  const now = Date.now() / 1000;
  must(claims.txn && of.uid && of.cell && of.epoch >= 1, "txn, uid, cell and epoch must be set");
  must(/^[a-z0-9-]{1,63}$/.test(of.tenant), "tenant must be a name");
  must(["owner", "replica"].includes(of.role) && ["request", "job", "export"].includes(of.purpose), "role and purpose must be known");
  must(claims.aud === trustDomain, "it is for another trust domain");
  must(claims.iss === key.principal && key.maySign(of), "its signer may not sign it");
  must(claims.exp > claims.iat && claims.exp - claims.iat <= LIFETIME && claims.iat <= now + SKEW, "iat and exp must be a context's");
  must(now < claims.exp && now < key.notAfter, "it is over");
  const tenant = { id: of.tenant, uid: of.uid, tier: of.tier, cell: of.cell, txn: claims.txn };
  return Object.defineProperty(tenant, "context", { value: context }); // printed nowhere
}

function must(good, what) {
  if (!good) throw new Refused(`the tenant context is not accepted: ${what}`);
}

function decode(part) {
  const text = Buffer.from(part, "base64url");
  must(text.toString("base64url") === part, "it must be base64url without padding");
  return text;
}

function parse(bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    const found = JSON.parse(text);
    // It takes the last of two members of one name, and no signer writes them, or a blank.
    if (JSON.stringify(found) === text) return found;
  } catch {
    // Said below.
  }
  return must(false, "it must be JSON in which no member is there twice");
}

/** The members of an object, each of its default's kind, and the default where it is absent. */
function members(of, defaults) {
  const kind = (value) => (Number.isSafeInteger(value) ? "integer" : Array.isArray(value) ? "list" : value === null ? "null" : typeof value);
  const good = kind(of) === "object" && Object.keys(of).every((name) => Object.hasOwn(defaults, name) && kind(of[name]) === kind(defaults[name]));
  must(good, "it must hold what is known");
  return { ...defaults, ...of };
}

/** Lets requests through whose context is verified, with the tenant in their async context; the others are refused. */
function middleware(verifier) {
  return async (request, response, next) => {
    let tenant;
    try {
      tenant = await verifier.verify(request.headersDistinct[HEADER] ?? []);
    } catch (e) {
      response.statusCode = e.status ?? 500;
      if (e instanceof UnknownKeys) response.setHeader("Retry-After", "1");
      response.setHeader("Content-Type", "text/plain; charset=utf-8");
      return response.end(`${e.message}\n`);
    }
    storage.run(tenant, next);
  };
}

module.exports = { HEADER, Refused, Tenantless, UnknownKeys, Verifier, current, middleware, outbound, sign };
