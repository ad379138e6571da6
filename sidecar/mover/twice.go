package mover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/journal"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// repeats bounds how often a write is sent to the other cell before that cell begins anew.
const repeats = 5

// writer takes the writes to one workload of one tenant, one after the other, while both cells must get them.
type writer struct {
	uid     string
	follow  int64
	path    string
	journal *journal.Journal
	turn    chan struct{} // held by who writes
	news    chan struct{} // there is something to repeat
}

// writer returns the writer of a tenant's workload, as of its mover's appointment.
func (m *Mover) writer(t *policyset.Tenant, workload string) (*writer, error) {
	path := filepath.Join(m.Dir, fmt.Sprintf("%s-%d-%s.journal", t.UID, t.Follow, workload))
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.writers[path]; w != nil {
		return w, nil
	}
	j, err := journal.Open(path)
	if err != nil {
		return nil, err
	}
	w := &writer{t.UID, t.Follow, path, j, make(chan struct{}, 1), make(chan struct{}, 1)}
	m.writers[path] = w
	return w, nil
}

// tidy takes away the journals of appointments that are over, those of earlier processes too.
func (m *Mover) tidy(set *policyset.Set) {
	appointed := map[string]int64{}
	for _, t := range set.Moving() {
		appointed[t.UID] = t.Follow
	}
	m.fences.keep(func(uid string) bool { _, ok := appointed[uid]; return ok })
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, w := range m.writers {
		if follow, ok := appointed[w.uid]; !ok || follow != w.follow {
			_ = w.journal.Close()
			delete(m.writers, path)
		}
	}
	if set == nil || m.tidied == len(m.writers) {
		return
	}
	m.tidied = len(m.writers)
	files, _ := filepath.Glob(filepath.Join(m.Dir, "*.journal"))
	for _, path := range files {
		over := m.writers[path] == nil
		for uid, follow := range appointed {
			if ok, _ := filepath.Match(fmt.Sprintf("%s-%d-*.journal", uid, follow), filepath.Base(path)); ok {
				over = false
			}
		}
		if over {
			_ = os.Remove(path)
		}
	}
}

// take waits for the turn to write.
func (w *writer) take(ctx context.Context, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case w.turn <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (w *writer) leave() { <-w.turn }

// connectionHeaders end with each connection (RFC 9110, section 7.6.1), or are the mesh's own.
var connectionHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	propagation.HeaderTxnToken, propagation.HeaderCell, propagation.HeaderTarget, propagation.HeaderLease,
}

// entry is a request as both cells get it.
func (q *request) entry(claims *tenanttoken.Claims) (journal.Entry, error) {
	e := journal.Entry{Method: q.r.Method, URI: q.r.URL.RequestURI(), Host: q.r.Host, Header: q.r.Header.Clone(), Body: q.body}
	for _, name := range connectionHeaders {
		e.Header.Del(name)
	}
	if e.Header.Get("Idempotency-Key") == "" {
		e.Header.Set("Idempotency-Key", claims.Txn)
	}
	var err error
	e.Claims, err = json.Marshal(claims)
	return e, err
}

// send sends an entry to a cell.
func (m *Mover) send(ctx context.Context, e *journal.Entry, cell, token string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, e.Method, "http://"+e.Host+e.URI, bytes.NewReader(e.Body))
	if err != nil {
		return nil, err
	}
	request.Header = e.Header.Clone()
	request.Header.Set(propagation.HeaderTxnToken, token)
	request.Header.Set(propagation.HeaderCell, cell)
	return m.client.RoundTrip(request)
}

// clear reports whether an answer says what became of a write: a service that fails, or that was not waited for, may
// have done it all the same.
func clear(status int) bool { return status < 500 }

// replay brings the owner's data to the other cell, and then each write after it, in MIGRATING. It returns when ctx ends,
// or with why it cannot go on.
func (c *copying) replay(ctx context.Context) error {
	w, err := c.writer(c.tenant, c.data.Workload)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		state := w.journal.State()
		if !state.Brought || state.Dirty {
			if c.begun {
				c.resyncs++
			}
			c.begun = true
			if err := c.beginAnew(ctx, w); err != nil {
				return err
			}
			continue
		}
		if err := c.replayAll(ctx, w); err != nil {
			return err
		}
		state = w.journal.State()
		c.say(nil, func(said *api.Copy) {
			said.Journal, said.Caught = int64(state.Waiting), !state.Dirty && state.Waiting <= smallJournal
		})
		timer := time.NewTimer(followRest)
		select {
		case <-ctx.Done():
		case <-w.news:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// beginAnew brings everything that is there now. Writes that the owner takes meanwhile wait in the journal.
func (c *copying) beginAnew(ctx context.Context, w *writer) error {
	if !w.take(ctx, lag) {
		return errors.New("a write to the owner does not end")
	}
	err := w.journal.Begin()
	w.leave()
	if err == nil {
		err = c.afresh(ctx)
	}
	if err == nil {
		err = w.journal.Brought()
	}
	return err
}

// replayAll sends the other cell what it must get now. It stops, without an error, at a write whose outcome is not known
// yet, and when the other cell must begin anew.
func (c *copying) replayAll(ctx context.Context, w *writer) error {
	for {
		e, ok, err := w.journal.Next()
		if err != nil || !ok || w.journal.State().Dirty {
			return err
		}
		if err := c.again(ctx, w, &e); err != nil {
			return err
		}
	}
}

// replayRest sends what is left, under the seal. It fails when that is not enough.
func (c *copying) replayRest(ctx context.Context) error {
	w, err := c.writer(c.tenant, c.data.Workload)
	if err == nil {
		err = c.replayAll(ctx, w)
	}
	if err != nil {
		return err
	}
	if state := w.journal.State(); !state.Brought || state.Dirty || state.Waiting > 0 {
		return fmt.Errorf("the journal is not whole: %+v", state)
	}
	return nil
}

// again sends one write to the other cell, until that has answered it as the owner has.
func (c *copying) again(ctx context.Context, w *writer, e *journal.Entry) error {
	var claims tenanttoken.Claims
	if err := json.Unmarshal(e.Claims, &claims); err != nil {
		return err
	}
	for try := 0; ; {
		token, err := c.Decider.Again(&claims, c.tenant, c.tenant.Target, tenanttoken.Replica)
		if err != nil {
			return err
		}
		response, err := c.send(ctx, e, c.tenant.Target, token)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := hookRetry / 4
		switch {
		case err != nil:
			try++
		case notTaken(response):
			wait = copyRetry
		case clear(response.StatusCode) && response.StatusCode/100 == e.Status/100:
			_, _ = io.Copy(io.Discard, response.Body)
			return errors.Join(response.Body.Close(), w.journal.Applied(e.Sequence))
		default: // the two cells are not equal
			try++
		}
		if err == nil {
			_ = response.Body.Close()
		}
		if try >= repeats {
			w.journal.Spoil()
			return nil
		}
		pause(ctx, wait)
	}
}

// twice sends a write to the owner, and notes it for the other cell. It reports false when it was not sent, or not
// taken, and can be sent again.
func (q *request) twice(onward decide.Onward) (taken bool) {
	t := onward.Repeat
	if q.isGRPC {
		q.refuse(q.Decider.Refuse(q.asked, policy.WriteFenced, "a gRPC call cannot be written twice: it waits until the tenant has moved"))
		return true
	}
	w, err := q.writer(t, strings.TrimPrefix(q.asked.Target, "workload/"))
	if err != nil {
		q.refuse(q.Decider.Refuse(q.asked, policy.EnforcementUnavailable, "the journal cannot be opened: "+err.Error()))
		return true
	}
	if !w.take(q.r.Context(), lag) {
		q.refuse(q.Decider.Refuse(q.asked, policy.Overloaded, "the tenant's writes are taken one at a time while it moves, and too many wait"))
		return true
	}
	response, taken := q.inTurn(w, t)
	w.leave()
	if response != nil {
		q.answer(response)
	}
	return taken
}

// inTurn is what must be done by one at a time.
func (q *request) inTurn(w *writer, waited *policyset.Tenant) (response *http.Response, taken bool) {
	// Waiting took time.
	onward, answer, ok := q.Decider.Onward(q.asked)
	if !ok {
		q.refuse(answer)
		return nil, true
	}
	if onward.Repeat == nil || onward.Repeat.Follow != waited.Follow {
		return nil, false
	}
	e, err := q.entry(onward.Claims)
	if err == nil {
		e.Sequence, err = w.journal.Intend(e)
	}
	if err != nil {
		q.refuse(q.Decider.Refuse(q.asked, policy.EnforcementUnavailable, "the journal cannot be written: "+err.Error()))
		return nil, true
	}
	// A client that hangs up does not end it: what became of it is worth more than the moment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.r.Context()), writeTime)
	response, err = q.send(ctx, &e, onward.Cell, onward.Token)
	outcome, status := journal.NotClear, 0
	if err == nil {
		response.Body = &ending{response.Body, cancel}
		status = response.StatusCode
		switch {
		case status >= 400 && response.Header.Get(propagation.HeaderReason) != "": // a sidecar's refusal
			outcome = journal.Untaken
		case clear(status):
			outcome = journal.Taken
		}
	} else {
		cancel()
	}
	// A failure makes the journal dirty; the owner has answered all the same.
	_ = w.journal.Settle(e.Sequence, outcome, status)
	select {
	case w.news <- struct{}{}:
	default:
	}
	if err != nil {
		q.unreached(err)
		return nil, true
	}
	if notTaken(response) {
		_ = response.Body.Close()
		return nil, false
	}
	return response, true
}

// writeTime bounds a write to the owner: longer than its route's timeout.
const writeTime = 90 * time.Second

// ending ends a request's context when its answer was read.
type ending struct {
	io.ReadCloser
	end context.CancelFunc
}

func (e *ending) Close() error {
	err := e.ReadCloser.Close()
	e.end()
	return err
}
