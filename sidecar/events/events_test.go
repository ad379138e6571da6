package events

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
)

// TestFromHere: another machine is refused before anything is read, by whatever address it comes; the service's own is any of this machine's.
func TestFromHere(t *testing.T) {
	for name, test := range map[string]struct {
		remote, local string
		here          bool
	}{
		"loopback":             {"127.0.0.1:4711", "127.0.0.1:15021", true},
		"another loopback":     {"127.0.0.9:4711", "127.0.0.1:15021", true},
		"IPv6":                 {"[::1]:4711", "[::1]:15021", true},
		"mapped":               {"[::ffff:127.0.0.1]:4711", "[::ffff:127.0.0.1]:15021", true},
		"this one's address":   {"10.0.0.7:4711", "10.0.0.7:15021", true},
		"another machine":      {"10.0.0.8:4711", "10.0.0.7:15021", false},
		"another one, by IPv6": {"[fd00::8]:4711", "[fd00::7]:15021", false},
		"nobody":               {"", "10.0.0.7:15021", false},
	} {
		request := httptest.NewRequest(http.MethodPost, event.PathOpen, strings.NewReader("no JSON"))
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-Forwarded-For", "127.0.0.1")
		request.RemoteAddr = test.remote
		local, err := net.ResolveTCPAddr("tcp", test.local)
		if err != nil {
			t.Fatal(err)
		}
		request = request.WithContext(context.WithValue(request.Context(), http.LocalAddrContextKey, local))
		w := httptest.NewRecorder()
		(&Local{}).ServeHTTP(w, request)
		if reason := w.Header().Get(propagation.HeaderReason); test.here && (w.Code != http.StatusBadRequest || reason != "") || !test.here && (w.Code != http.StatusUnauthorized || reason != "unauthenticated_peer") {
			t.Errorf("%s: %d %q %s", name, w.Code, reason, w.Body)
		}
	}
}

// TestQuestions: what is no question is none, and a browser's form is not one.
func TestQuestions(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, kind, body string
		status                   int
	}{
		"a form":       {http.MethodPost, event.PathSeal, "text/plain", `{"topic":"orders"}`, http.StatusUnsupportedMediaType},
		"a GET":        {http.MethodGet, event.PathSeal, "application/json", `{"topic":"orders"}`, http.StatusUnsupportedMediaType},
		"another path": {http.MethodPost, "/events", "application/json", `{"topic":"orders"}`, http.StatusNotFound},
		"of the other": {http.MethodPost, event.PathSeal, "application/json", `{"topic":"orders","token":"x"}`, http.StatusBadRequest},
		"too long":     {http.MethodPost, event.PathSeal, "application/json", `{"topic":"` + strings.Repeat("x", event.MaxBody) + `"}`, http.StatusBadRequest},
	} {
		request := httptest.NewRequest(test.method, test.path, strings.NewReader(test.body))
		request.Header.Set("Content-Type", test.kind)
		w := httptest.NewRecorder()
		if _, ok := read(w, request); ok || w.Code != test.status {
			t.Errorf("%s: %v %d %s", name, ok, w.Code, w.Body)
		}
	}
}
