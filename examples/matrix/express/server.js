// A service that calls the next one: in turn, all at once, and by workers that took their jobs from a queue, in which no context travels.
//
// It knows no tenant. "mark" is the test's: what the next service is told by the mesh is compared with it. Its client, axios, reads http_proxy.
"use strict";

const http = require("http");
const axios = require("axios");
const express = require("express");

const number = (name) => Number(process.env[name] ?? 0);
const client = axios.create({ httpAgent: new http.Agent({ keepAlive: true, maxSockets: 64 }), timeout: 60_000, validateStatus: null });

async function call(mark) {
  const answer = await client.get(`${process.env.NEXT}/work`, { params: { mark } });
  const reason = answer.headers["x-tenantmesh-reason"];
  if (answer.status === 200) return { ...answer.data, proven: 1 + answer.data.proven };
  if (answer.status === 403 && reason) return { proven: 0, refused: 1, wrong: 0 };
  throw new Error(`${answer.status} ${reason} ${JSON.stringify(answer.data).slice(0, 200)}`);
}

const jobs = [];
const idle = [];

function enqueue(mark) {
  return new Promise((resolve, reject) => {
    const job = { mark, resolve, reject };
    if (idle.length > 0) idle.shift()(job);
    else jobs.push(job);
  });
}

async function work() {
  for (;;) {
    const job = jobs.shift() ?? (await new Promise((resolve) => idle.push(resolve)));
    await call(job.mark).then(job.resolve, job.reject);
  }
}

for (let i = 0; i < 64; i++) work();

const app = express();

app.get("/work", async (request, response) => {
  const { mark } = request.query;
  const total = { proven: 0, refused: 0, wrong: Number(request.get("X-Tenant-Id") !== mark) };
  const asked = [];
  for (let i = 0; i < number("TASKS"); i++) asked.push(call(mark));
  for (let i = 0; i < number("BARE"); i++) asked.push(enqueue(mark));
  const turns = async () => {
    const results = [];
    for (let i = 0; i < number("TURNS"); i++) results.push(await call(mark));
    return results;
  };
  for (const result of (await Promise.all([turns(), ...asked])).flat()) {
    for (const name of Object.keys(total)) total[name] += result[name];
  }
  response.json(total);
});

const server = app.listen(Number(process.argv[2]), "127.0.0.1");
server.keepAliveTimeout = 75_000;
