"""Documents: keeps documents, and finds them with the search service."""

import requests
from flask import Flask, jsonify, request

app = Flask(__name__)

DOCUMENTS = {
    "1": {"title": "Welcome", "body": "How AcmeDocs works."},
    "2": {"title": "Roadmap", "body": "What comes next, and when."},
}


@app.get("/documents")
def list_documents():
    return jsonify(sorted(DOCUMENTS))


@app.get("/documents/<key>")
def read_document(key):
    document = DOCUMENTS.get(key)
    return (jsonify(document), 200) if document else (jsonify(error="no such document"), 404)


@app.post("/documents/<key>/export")
def export_document(key):
    return jsonify(key=key, format="text", pages=1)


@app.get("/documents/find")
def find_documents():
    answer = requests.get("http://search/search", params={"q": request.args.get("q", "")}, timeout=5)
    return answer.content, answer.status_code, {"Content-Type": answer.headers.get("Content-Type", "text/plain")}


@app.get("/documents/debug/search")
def debug_search():
    answer = requests.get("http://search/search/debug", timeout=5)
    return answer.content, answer.status_code, {"Content-Type": answer.headers.get("Content-Type", "text/plain")}


@app.get("/documents/debug/httpbin")
def debug_httpbin():
    answer = requests.get("http://httpbin/headers", timeout=5)
    return answer.content, answer.status_code, dict(answer.headers)
