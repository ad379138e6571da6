"""Search: finds documents by a word of their title."""

from flask import Flask, jsonify, request

app = Flask(__name__)

TITLES = {"1": "Welcome", "2": "Roadmap"}


@app.get("/search")
def search():
    word = request.args.get("q", "").lower()
    return jsonify([key for key, title in TITLES.items() if word in title.lower()])


@app.get("/search/debug")
def debug():
    return jsonify({name.lower(): value for name, value in request.headers.items()})
