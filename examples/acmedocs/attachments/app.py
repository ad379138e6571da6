"""Attachments: keeps each tenant's files in a folder. It knows nothing of moves; data.py beside it does."""

import os
import tempfile

from flask import Flask, jsonify, request

app = Flask(__name__)
FOLDER = os.environ.get("ATTACHMENTS", "attachments")


def folder():
    path = os.path.join(FOLDER, request.headers["X-Tenant-Id"])
    os.makedirs(path, exist_ok=True)
    return path


@app.get("/attachments")
def list_attachments():
    return jsonify(sorted(name for name in os.listdir(folder()) if not name.startswith(".")))


@app.put("/attachments/<name>")
def write_attachment(name):
    if name.startswith("."):
        return jsonify(error="a name must not begin with a dot"), 400
    with tempfile.NamedTemporaryFile(dir=folder(), prefix=".", delete=False) as file:
        file.write(request.get_data())
    os.replace(file.name, os.path.join(folder(), name))
    return jsonify(name=name)
