"""Search: an index of titles, with IDs of its own, and what is found in it by a word."""

import hashlib
import json
import os
import sqlite3
import uuid

from flask import Flask, g, jsonify, request

app = Flask(__name__)
DATABASE = os.environ.get("SEARCH_DB", "search.db")

TITLES = {"1": "Welcome", "2": "Roadmap"}  # everybody has these
PAGE = 200  # entries of an export


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
    # The position is where an entry came in here; it stays behind when the entry moves. The entry's ID does not.
    start.execute(
        "CREATE TABLE IF NOT EXISTS entries (position INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT, id TEXT, title TEXT, UNIQUE (tenant, id))"
    )
    start.execute("CREATE TABLE IF NOT EXISTS fences (tenant TEXT PRIMARY KEY, token INTEGER)")


def tenant():
    return request.headers["X-Tenant-Id"]


@app.get("/search")
def search():
    word = request.args.get("q", "").lower()
    found = [key for key, title in TITLES.items() if word in title.lower()]
    query = "SELECT id FROM entries WHERE tenant = ? AND instr(lower(title), ?) ORDER BY position"
    return jsonify(found + [row[0] for row in database().execute(query, (tenant(), word))])


@app.post("/search/entries")
def add_entry():
    entry = str(uuid.uuid4())
    with database() as transaction:
        transaction.execute("INSERT INTO entries (tenant, id, title) VALUES (?, ?, ?)", (tenant(), entry, request.get_json()["title"]))
    return jsonify(id=entry)


@app.get("/search/debug")
def debug():
    return jsonify({name.lower(): value for name, value in request.headers.items()})


# How a tenant's index leaves one store for another: by what came in after a cursor.


def late(transaction):
    changed = transaction.execute(
        "INSERT INTO fences VALUES (?, ?) ON CONFLICT (tenant) DO UPDATE SET token = excluded.token WHERE token <= excluded.token",
        (tenant(), int(request.headers["X-Tenantmesh-Fence"])),
    )
    return changed.rowcount == 0


@app.get("/tenant-data")
def export_data():
    since = int(request.args.get("cursor", 0))
    query = "SELECT position, id, title FROM entries WHERE tenant = ? AND position > ? ORDER BY position LIMIT ?"
    rows = database().execute(query, (tenant(), since, PAGE + 1)).fetchall()
    page = rows[:PAGE]
    answer = jsonify([row[1:] for row in page])
    answer.headers["X-Tenantmesh-Cursor"] = str(page[-1][0] if page else since)
    answer.headers["X-Tenantmesh-More"] = "true" if len(rows) > PAGE else "false"
    return answer


@app.route("/tenant-data", methods=["PUT", "PATCH"])
def import_data():
    rows = request.get_json()
    with database() as transaction:
        if late(transaction):
            return jsonify(error="a later call came before"), 409
        if request.method == "PUT":
            transaction.execute("DELETE FROM entries WHERE tenant = ?", (tenant(),))
        transaction.executemany("INSERT OR REPLACE INTO entries (tenant, id, title) VALUES (?, ?, ?)", [[tenant(), *row] for row in rows])
    return "", 204


@app.delete("/tenant-data")
def delete_data():
    with database() as transaction:
        if late(transaction):
            return jsonify(error="a later call came before"), 409
        transaction.execute("DELETE FROM entries WHERE tenant = ?", (tenant(),))
    return "", 204


@app.get("/tenant-data/digest")
def digest_data():
    rows = database().execute("SELECT id, title FROM entries WHERE tenant = ? ORDER BY id", (tenant(),)).fetchall()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
