"""Documents: keeps each tenant's documents in SQLite, and finds them with the search service."""

import hashlib
import json
import os
import sqlite3

import requests
from flask import Flask, g, jsonify, request

app = Flask(__name__)
DATABASE = os.environ.get("DOCUMENTS_DB", "documents.db")


def database():
    if "database" not in g:
        g.database = sqlite3.connect(DATABASE, timeout=10)
    return g.database


@app.teardown_appcontext
def close_database(_error):
    if "database" in g:
        g.pop("database").close()


with sqlite3.connect(DATABASE) as start:
    start.execute("PRAGMA journal_mode=WAL")
    start.execute(
        "CREATE TABLE IF NOT EXISTS documents (tenant TEXT, key TEXT, title TEXT, body TEXT, writes INTEGER, PRIMARY KEY (tenant, key))"
    )
    # Writes that were made, by their Idempotency-Key: one that is sent again changes nothing.
    start.execute("CREATE TABLE IF NOT EXISTS made (tenant TEXT, write TEXT, PRIMARY KEY (tenant, write))")
    # The newest call that changed a tenant's data as a whole: one that comes late changes nothing.
    start.execute("CREATE TABLE IF NOT EXISTS fences (tenant TEXT PRIMARY KEY, token INTEGER)")


def tenant():
    return request.headers["X-Tenant-Id"]


def rows():
    query = "SELECT key, title, body, writes FROM documents WHERE tenant = ? ORDER BY key"
    return database().execute(query, (tenant(),)).fetchall()


@app.get("/documents")
def list_documents():
    return jsonify([row[0] for row in rows()])


@app.get("/documents/<key>")
def read_document(key):
    query = "SELECT title, body, writes FROM documents WHERE tenant = ? AND key = ?"
    row = database().execute(query, (tenant(), key)).fetchone()
    if row is None:
        return jsonify(error="no such document"), 404
    return jsonify(title=row[0], body=row[1], writes=row[2])


@app.put("/documents/<key>")
def write_document(key):
    document = request.get_json()
    with database() as transaction:
        write = request.headers.get("Idempotency-Key")
        if write and transaction.execute("INSERT OR IGNORE INTO made VALUES (?, ?)", (tenant(), write)).rowcount == 0:
            return jsonify(key=key)
        transaction.execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?, 1) ON CONFLICT (tenant, key)"
            " DO UPDATE SET title = excluded.title, body = excluded.body, writes = writes + 1",
            (tenant(), key, document.get("title", ""), document.get("body", "")),
        )
    return jsonify(key=key)


@app.post("/documents/<key>/export")
def export_document(key):
    return jsonify(key=key, format="text", pages=1)


@app.get("/documents/find")
def find_documents():
    answer = requests.get("http://search/search", params={"q": request.args.get("q", "")}, timeout=5)
    return answer.content, answer.status_code, {"Content-Type": answer.headers.get("Content-Type", "text/plain")}


@app.get("/documents/linked")
def linked_document():
    """A document that lies elsewhere. Which hosts this service may call, the mesh says."""
    answer = requests.get(request.args["at"], timeout=5)
    return answer.content, answer.status_code, {"Content-Type": answer.headers.get("Content-Type", "text/plain")}


# How a tenant's documents leave one store for another.


def everything():
    made = database().execute("SELECT write FROM made WHERE tenant = ? ORDER BY write", (tenant(),)).fetchall()
    return {"documents": rows(), "made": [row[0] for row in made]}


def late(transaction):
    token = int(request.headers["X-Tenantmesh-Fence"])
    changed = transaction.execute(
        "INSERT INTO fences VALUES (?, ?) ON CONFLICT (tenant) DO UPDATE SET token = excluded.token WHERE token <= excluded.token",
        (tenant(), token),
    )
    return changed.rowcount == 0


def remove(transaction):
    transaction.execute("DELETE FROM documents WHERE tenant = ?", (tenant(),))
    transaction.execute("DELETE FROM made WHERE tenant = ?", (tenant(),))


@app.get("/tenant-data")
def export_data():
    return jsonify(everything())


@app.put("/tenant-data")
def import_data():
    data = request.get_json()
    with database() as transaction:
        if late(transaction):
            return jsonify(error="a later call came before"), 409
        remove(transaction)
        transaction.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", [[tenant(), *row] for row in data["documents"]])
        transaction.executemany("INSERT INTO made VALUES (?, ?)", [[tenant(), write] for write in data["made"]])
    return "", 204


@app.delete("/tenant-data")
def delete_data():
    with database() as transaction:
        if late(transaction):
            return jsonify(error="a later call came before"), 409
        remove(transaction)
    return "", 204


@app.get("/tenant-data/digest")
def digest_data():
    return hashlib.sha256(json.dumps(rows()).encode()).hexdigest()


@app.get("/documents/debug/search")
def debug_search():
    answer = requests.get("http://search/search/debug", timeout=5)
    return answer.content, answer.status_code, {"Content-Type": answer.headers.get("Content-Type", "text/plain")}


@app.get("/documents/debug/httpbin")
def debug_httpbin():
    why = {"X-Tenantmesh-Grant-Reason": request.args["reason"]} if "reason" in request.args else {}
    answer = requests.get("http://httpbin/headers", headers=why, timeout=5)
    return answer.content, answer.status_code, dict(answer.headers)
