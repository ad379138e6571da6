package history

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

const (
	clientsPerTenant = 3
	keys             = 3
	answerPatience   = 5 * time.Second // of a client; then the answer is unclear
	thinking         = 20              // milliseconds at most, between a client's requests
)

// recorder keeps what the clients saw.
type recorder struct {
	began time.Time

	mu      sync.Mutex
	history map[string][]operation // by row
	told    map[string]int         // how often clients were told what
}

func (r *recorder) add(op operation, told string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history[op.row] = append(r.history[op.row], op)
	r.told[told]++
}

// client sends one request after the other.
type client struct {
	*recorder
	number   int
	tenant   string
	token    string
	gateways []string // URLs
	random   *rand.Rand
	http     *http.Client
	sent     int
}

func newClient(r *recorder, number int, tenant, token string, gateways []string, seed uint64) *client {
	return &client{
		recorder: r, number: number, tenant: tenant, token: token, gateways: gateways, random: rand.New(rand.NewPCG(seed, uint64(number))),
		http: &http.Client{Transport: &http.Transport{}, Timeout: answerPatience},
	}
}

// run reads and writes until stop is closed.
func (c *client) run(ctx context.Context, stop <-chan struct{}) error {
	defer c.http.CloseIdleConnections()
	for {
		if _, err := c.ask(ctx, fmt.Sprint("row-", c.random.IntN(keys)), c.random.IntN(2) == 0); err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		case <-time.After(time.Duration(c.random.IntN(thinking)) * time.Millisecond):
		}
	}
}

// ask sends one request to any gateway, and records it.
func (c *client) ask(ctx context.Context, key string, write bool) (fate, error) {
	c.sent++
	op := operation{client: c.number, row: c.tenant + "/" + key, write: write, fate: unclear}
	method, body := http.MethodGet, ""
	if write {
		op.value = fmt.Sprintf("%d-%d", c.number, c.sent)
		method, body = http.MethodPut, fmt.Sprintf(`{"body": %q}`, op.value)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.gateways[c.random.IntN(len(c.gateways))]+"/documents/"+key, strings.NewReader(body))
	if err != nil {
		return op.fate, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Content-Type", "application/json")
	op.call = time.Since(c.began)
	told := c.send(request, &op)
	op.ret = time.Since(c.began)
	c.add(op, told)
	return op.fate, nil
}

// send fills in what came of the request, and returns what the client was told.
func (c *client) send(request *http.Request, op *operation) (told string) {
	response, err := c.http.Do(request)
	if err != nil {
		return "nothing: the connection broke, or it took too long"
	}
	text, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	reason := response.Header.Get("x-tenantmesh-reason")
	var document struct {
		Body   string
		Writes int
	}
	switch {
	case err != nil:
		return "half an answer"
	case response.StatusCode == http.StatusOK && (op.write || json.Unmarshal(text, &document) == nil):
		op.fate = done
		if !op.write {
			op.value, op.writes = document.Body, document.Writes
		}
	case response.StatusCode == http.StatusNotFound && !op.write && strings.Contains(string(text), "no such document"):
		op.fate = done
	// It is told, too, when an answer did not come.
	case reason != "" && reason != policy.EnforcementUnavailable.String():
		op.fate = refused
	}
	return strings.TrimSpace(fmt.Sprint(response.StatusCode, " ", reason))
}

// insist asks until it is done.
func (c *client) insist(t *testing.T, key string, write bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		result, err := c.ask(t.Context(), key, write)
		if err != nil {
			t.Fatal(err)
		}
		if result == done {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s of tenant %s was not served %v after everything was mended", key, c.tenant, patience)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
