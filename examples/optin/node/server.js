// An Express service that opts in: `node server.js PORT`. It answers with its tenant, and with what the back it calls was told.
"use strict";

const { AsyncResource } = require("node:async_hooks");
const axios = require("axios");
const express = require("express");
const tenantmesh = require("./tenantmesh.js");

const client = axios.create({ timeout: 30_000, responseType: "text", validateStatus: null });
client.interceptors.request.use(tenantmesh.sign);

const ask = async () => (await client.get(`${process.env.BACK}/x`)).data;
// What is bound to a resource, such as a pool's, that was made before any request came, has none's context.
const nobodys = new AsyncResource("pool");

const app = express();
app.use(tenantmesh.middleware(new tenantmesh.Verifier(process.env.SIDECAR)));
app.get("/lost", async (request, response) => response.send(await nobodys.runInAsyncScope(ask)));
app.get("/{*path}", async (request, response) => response.send(`${tenantmesh.current().id} ${await ask()}`));
app.use((error, request, response, next) => {
  if (!(error instanceof tenantmesh.Tenantless)) return next(error);
  response.status(418).send(error.message);
});
app.listen(Number(process.argv[2]), "127.0.0.1");
