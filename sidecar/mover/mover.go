// Package mover answers WHERE TO NOW, for requests of tenants that move: the gateway's Envoy sends them here by the
// scope `move`, because Envoy's router cannot decide again and a check must not wait. Each is decided at the epoch of
// the moment it leaves; a write is held while it is fenced; and what a cell did not take, because its placement was
// older or newer than the gateway's, is sent again. And WHAT FOLLOWS IT: the gateway that is a tenant's mover brings the
// tenant's data to the other cell by the workloads' hooks, and repeats there, in order, the writes of workloads whose
// strategy is dualWrite; other gateways send it those writes.
//
// # Concurrency
//
// A [Mover] is an http.Handler; [Mover.Run] is one goroutine, and starts one for each tenant that it moves.
//
// It imports policy, identity and the rooms of sidecar that it joins.
package mover

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
	"github.com/tenantmesh/tenantmesh/sidecar/refusal"
)

// Config says what a mover stands on.
type Config struct {
	Decider *decide.Decider
	Sets    *policyset.Holder
	Member  string      // this member's ID
	Egress  string      // path of the Unix socket of this gateway's Envoy
	Dir     string      // of the journals
	Peers   *tls.Config // of a client, to other gateways
	MaxBody int64       // bytes of a request that are kept for a repetition; default DefaultMaxBody
	MaxHeld int64       // bytes of all of them; default DefaultMaxHeld
}

// Bounds of what is kept, in bytes: 64 MiB and 512 MiB.
const (
	DefaultMaxBody = 64 << 20
	DefaultMaxHeld = 512 << 20
)

const (
	// lag is how long a request that a cell did not take waits for the next placement, in any state: longer than a push
	// needs to reach everyone.
	lag = 2 * time.Second
	// again is how soon such a request is tried again without one.
	again = 50 * time.Millisecond
)

// Mover forwards.
type Mover struct {
	Config
	client *http.Transport // to the cells
	peers  *http.Transport // to other gateways
	held   *semaphore.Weighted
	fences fences

	mu      sync.Mutex
	writers map[string]*writer // by the journal's path
	tidied  int                // writers when files were last looked at; -1: never
}

// New returns a mover.
func New(config Config) *Mover {
	if config.MaxBody == 0 {
		config.MaxBody = DefaultMaxBody
	}
	if config.MaxHeld == 0 {
		config.MaxHeld = max(DefaultMaxHeld, config.MaxBody)
	}
	m := &Mover{Config: config, held: semaphore.NewWeighted(config.MaxHeld), fences: fences{last: map[string]int64{}}, writers: map[string]*writer{}, tidied: -1}
	m.peers = &http.Transport{TLSClientConfig: config.Peers, ForceAttemptHTTP2: true, DisableCompression: true}
	m.client = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", config.Egress)
		},
		Protocols: new(http.Protocols), DisableCompression: true,
	}
	m.client.Protocols.SetUnencryptedHTTP2(true)
	return m
}

// request is one request on its way.
type request struct {
	*Mover
	w      http.ResponseWriter
	r      *http.Request
	body   []byte // when kept
	kept   bool   // the body can be sent again
	asked  *decide.Request
	isGRPC bool
}

// ServeHTTP implements http.Handler, for the Envoy beside.
func (m *Mover) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.serve(w, r, r.Header.Get(propagation.HeaderLease), false)
}

func (m *Mover) serve(w http.ResponseWriter, r *http.Request, lease string, forwarded bool) {
	q := &request{Mover: m, w: w, r: r, isGRPC: strings.HasPrefix(r.Header.Get("content-type"), "application/grpc")}
	q.asked = &decide.Request{
		Listener: meshname.ListenerGateway, Method: r.Method, Path: r.URL.Path, Lease: lease, Forwarded: forwarded,
		Target:  r.Header.Get(propagation.HeaderTarget),
		Headers: decide.HeadersOf(map[string][]string{propagation.HeaderTxnToken: r.Header.Values(propagation.HeaderTxnToken)}),
	}
	// A gRPC stream has no end to wait for: it is sent on as it comes, and once.
	if !q.isGRPC {
		size := r.ContentLength
		if size < 0 {
			size = m.MaxBody
		}
		if size > m.MaxBody {
			q.refuse(m.Decider.Refuse(q.asked, policy.BodyTooLarge, "the body has over "+strconv.FormatInt(m.MaxBody, 10)+" bytes"))
			return
		}
		if !m.held.TryAcquire(size) {
			q.refuse(m.Decider.Refuse(q.asked, policy.Overloaded, "too many bytes of requests of tenants that move are held"))
			return
		}
		defer m.held.Release(size)
		body, err := io.ReadAll(io.LimitReader(r.Body, m.MaxBody+1))
		if err != nil {
			return // the client is gone
		}
		if int64(len(body)) > m.MaxBody {
			q.refuse(m.Decider.Refuse(q.asked, policy.BodyTooLarge, "the body has over "+strconv.FormatInt(m.MaxBody, 10)+" bytes"))
			return
		}
		q.body, q.kept = body, true
	}
	q.run()
}

// run sends the request on as soon as it may, until a cell takes it.
func (q *request) run() {
	began := time.Now()
	for {
		changed := q.Sets.Changed()
		onward, answer, ok := q.Decider.Onward(q.asked)
		if !ok {
			q.refuse(answer)
			return
		}
		patience, soon := lag, again
		switch {
		case onward.Held && q.asked.Forwarded:
			q.giveBack()
			return
		case onward.Held:
			patience, soon = onward.Hold, onward.Hold
		case onward.Via != "":
			if q.via(onward.Via) {
				return
			}
		case onward.Repeat != nil:
			if q.twice(onward) {
				return
			}
		case q.forward(onward):
			return
		}
		if q.asked.Forwarded {
			q.giveBack()
			return
		}
		left := patience - time.Since(began)
		if left <= 0 {
			q.refuse(q.Decider.Refuse(q.asked, policy.WriteFenced, "the tenant's writes were held for as long as they may"))
			return
		}
		timer := time.NewTimer(min(left, soon))
		select {
		case <-changed:
		case <-timer.C:
		case <-q.r.Context().Done():
			return
		}
		timer.Stop()
	}
}

// forward sends the request to a cell. It reports false when the cell's sidecar says that it did not pass it on, and it
// can be sent again.
func (q *request) forward(onward decide.Onward) (taken bool) {
	out := q.r.Clone(q.r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", q.r.Host, ""
	out.Body = q.r.Body
	if q.kept {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(q.body)), int64(len(q.body))
	}
	out.Header.Set(propagation.HeaderTxnToken, onward.Token)
	out.Header.Set(propagation.HeaderCell, onward.Cell)
	response, err := q.client.RoundTrip(out)
	if err != nil {
		q.unreached(err)
		return true
	}
	if q.kept && notTaken(response) {
		_ = response.Body.Close()
		return false
	}
	q.answer(response)
	return true
}

// unreached tells the client that nobody answered.
func (q *request) unreached(err error) {
	if q.r.Context().Err() == nil {
		q.refuse(q.Decider.Refuse(q.asked, policy.EnforcementUnavailable, "the cell was not reached: "+err.Error()))
	}
}

// answer gives the client a cell's answer.
func (q *request) answer(response *http.Response) {
	defer response.Body.Close()
	header := q.w.Header()
	for name, values := range response.Header {
		header[name] = values
	}
	q.w.WriteHeader(response.StatusCode)
	if err := copyFlushing(q.w, response.Body); err != nil {
		panic(http.ErrAbortHandler) // the client must see that the answer is cut
	}
	for name, values := range response.Trailer {
		for _, value := range values {
			header.Add(http.TrailerPrefix+name, value)
		}
	}
}

// notTaken reports whether a sidecar refused before the service saw anything, for a reason that a newer placement
// lifts. Only sidecars can say so: they take the header out of services' answers.
func notTaken(response *http.Response) bool {
	return response.Header.Get(propagation.HeaderUntaken) != ""
}

func copyFlushing(w http.ResponseWriter, body io.Reader) error {
	controller, buffer := http.NewResponseController(w), make([]byte, 32<<10)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			if err := controller.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (q *request) refuse(answer decide.Answer) {
	r := refusal.Of(&answer, q.isGRPC)
	for _, h := range r.Headers {
		q.w.Header().Set(h.Name, h.Value)
	}
	if q.isGRPC { // trailers only (the gRPC protocol over HTTP/2, Responses)
		q.w.Header().Set("content-type", "application/grpc")
		q.w.WriteHeader(http.StatusOK)
		return
	}
	q.w.WriteHeader(r.Status)
	_, _ = io.WriteString(q.w, r.Body)
}
