// Package events exchanges tokens of events: beside a service, for who is on its machine; at a gateway, which signs, for the sidecars of workloads that have
// events, over mutual TLS.
//
// A sidecar signs nothing for tenants that it is not bound to, so it asks a gateway, once it found nothing to refuse itself; what the gateway says counts,
// too.
//
// # Concurrency
//
// [Local] and [Peer] answer many requests at once.
//
// It imports identity and its rooms, policy and sidecar/decide.
package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/event"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

// Local answers the service beside a sidecar.
type Local struct {
	Decider *decide.Decider
	Client  *http.Client // to gateways, by this sidecar's identity, which it takes nobody else for
}

// gatewayTime bounds one gateway's answer, and asked is how many are asked, at most.
const (
	gatewayTime = 2 * time.Second
	asked       = 2
)

// ServeHTTP implements http.Handler.
func (l *Local) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !fromHere(r) {
		refuse(w, policy.UnauthenticatedPeer, "only the service beside this sidecar may ask: the request is from another machine", 0)
		return
	}
	e, ok := read(w, r)
	if !ok {
		return
	}
	if _, answer := l.Decider.DecideEvent(e); !answer.Decision.Allowed {
		refuseAs(w, &answer.Decision)
		return
	}
	set := l.Decider.Sets.Load()
	gateways := slices.Collect(maps.Values(set.Self.Movers))
	rand.Shuffle(len(gateways), func(i, j int) { gateways[i], gateways[j] = gateways[j], gateways[i] })
	problem := errors.New("none is known")
	for _, at := range gateways[:min(asked, len(gateways))] {
		var status int
		var body []byte
		if status, body, problem = l.ask(r.Context(), "https://"+at+r.URL.Path, e); problem == nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write(body)
			return
		}
	}
	refuse(w, policy.EnforcementUnavailable, "no gateway could be asked: "+problem.Error(), time.Second)
}

// ask asks a gateway. An answer that says that it could not decide is an error: another may.
func (l *Local) ask(ctx context.Context, url string, e decide.Event) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, gatewayTime)
	defer cancel()
	var question any = event.SealRequest{Topic: e.Topic, Context: e.Token}
	if e.Open {
		question = event.OpenRequest{Topic: e.Topic, Token: e.Token}
	}
	text, err := json.Marshal(question)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := l.Client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if body, err = io.ReadAll(io.LimitReader(response.Body, event.MaxBody)); err != nil {
		return 0, nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.StatusCode, body, nil
	}
	var refused event.Refused
	if err := json.Unmarshal(body, &refused); err != nil {
		return 0, nil, fmt.Errorf("a gateway answers %s", response.Status)
	}
	reason, err := policy.ParseReason(refused.Reason)
	if err != nil {
		return 0, nil, err
	}
	if reason == policy.EnforcementUnavailable || reason == policy.UnauthenticatedPeer { // the latter does not know this workload's events yet
		return 0, nil, errors.New("a gateway answers " + refused.Detail)
	}
	return reason.Status(), body, nil
}

// fromHere reports whether a request comes from this machine, by any of its addresses.
func fromHere(r *http.Request) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	if remote.Addr().Unmap().IsLoopback() {
		return true
	}
	at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	local, err := netip.ParseAddrPort(at.String())
	return err == nil && local.Addr().Unmap() == remote.Addr().Unmap()
}

// Peer answers the sidecar of a workload, at a gateway.
func Peer(decider *decide.Decider, peer identity.Principal) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, ok := read(w, r)
		if !ok {
			return
		}
		e.Peer = peer
		signed, answer := decider.DecideEvent(e)
		if !answer.Decision.Allowed {
			refuseAs(w, &answer.Decision)
			return
		}
		var body any = event.Sealed{Token: signed}
		if e.Open {
			body = event.Opened{Context: signed}
		}
		write(w, http.StatusOK, body)
	})
}

// read takes a question. What is none is answered.
func read(w http.ResponseWriter, r *http.Request) (e decide.Event, ok bool) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" || r.Method != http.MethodPost {
		http.Error(w, "send a POST with Content-Type application/json", http.StatusUnsupportedMediaType)
		return e, false
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, event.MaxBody))
	decoder.DisallowUnknownFields()
	var err error
	switch r.URL.Path {
	case event.PathSeal:
		var q event.SealRequest
		err = decoder.Decode(&q)
		e = decide.Event{Topic: q.Topic, Token: q.Context}
	case event.PathOpen:
		var q event.OpenRequest
		err = decoder.Decode(&q)
		e = decide.Event{Open: true, Topic: q.Topic, Token: q.Token}
	default:
		http.NotFound(w, r)
		return e, false
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("the body must be the question as JSON, of at most %d bytes: %v", event.MaxBody, err), http.StatusBadRequest)
		return e, false
	}
	return e, true
}

func refuseAs(w http.ResponseWriter, d *policy.Decision) {
	w.Header().Set(propagation.HeaderDecision, d.ID)
	refuse(w, d.Reason, d.Detail, d.RetryAfter)
}

func refuse(w http.ResponseWriter, reason policy.Reason, detail string, retry time.Duration) {
	w.Header().Set(propagation.HeaderReason, reason.String())
	if retry > 0 {
		w.Header().Set(propagation.HeaderRetryAfter, fmt.Sprint(max(1, int64(retry.Seconds()))))
	}
	write(w, reason.Status(), event.Refused{Reason: reason.String(), Detail: detail})
}

func write(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
