"""An ordinary service: it calls what it is asked to by name, passes traceparent on, and says what it got."""
import http.server, json, socket, sys, urllib.error, urllib.parse, urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if "to" not in query:
            return self.say(200, json.dumps({"Path": self.path, "Header": {k: [v] for k, v in self.headers.items()}}))
        request = urllib.request.Request(query["to"][0])
        for name in query.get("forward", []):
            request.add_header(name, self.headers[name])
        for host in query.get("host", []):
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                self.say(answer.status, answer.read().decode())
        except urllib.error.HTTPError as refusal:
            self.say(refusal.code, refusal.read().decode(), {k: v for k, v in refusal.headers.items() if k.startswith("x-tenantmesh-")})
        except Exception as e:
            self.say(502, repr(e))

    def say(self, status, body, headers={}):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4


Server(("::", int(sys.argv[1])), Handler).serve_forever()
