package xds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// ErrNoDecision means that no member that is here remembers the decision.
var ErrNoDecision = errors.New("no connected sidecar remembers this decision")

// question is one that was put to one member: only that one answers it.
type question struct{ member, decision string }

// Explain asks the member that made a decision for it: each of those whose ID begins as the decision's, which is one
// but for chance.
func (m *Members) Explain(ctx context.Context, id string) (policy.Decision, error) {
	prefix, _, ok := strings.Cut(id, "-")
	var peers []*server.Peer
	m.mu.Lock()
	for member, p := range m.present {
		if ok && len(prefix) >= memberPrefix && strings.HasPrefix(member, prefix) {
			peers = append(peers, p)
		}
	}
	answers := make(chan *api.Explanation, len(peers))
	for _, p := range peers {
		q := question{p.Hello.MemberId, id}
		m.asked[q] = append(m.asked[q], answers)
	}
	m.mu.Unlock()
	defer m.forget(peers, id, answers)
	var failed error
	waiting := 0
	for _, p := range peers {
		if err := p.Send(&api.ControlMessage{Message: &api.ControlMessage_Explain{Explain: &api.Explain{DecisionId: id}}}); err != nil {
			failed = err
			continue
		}
		waiting++
	}
	for ; waiting > 0; waiting-- {
		select {
		case found := <-answers:
			if found.Found {
				var decision policy.Decision
				err := json.Unmarshal([]byte(found.Json), &decision)
				return decision, err
			}
		case <-ctx.Done():
			return policy.Decision{}, ctx.Err()
		}
	}
	if failed != nil {
		return policy.Decision{}, failed
	}
	return policy.Decision{}, fmt.Errorf("%q: %w", id, ErrNoDecision)
}

func (m *Members) forget(peers []*server.Peer, id string, answers chan *api.Explanation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range peers {
		q := question{p.Hello.MemberId, id}
		m.asked[q] = slices.DeleteFunc(m.asked[q], func(other chan *api.Explanation) bool { return other == answers })
		if len(m.asked[q]) == 0 {
			delete(m.asked, q)
		}
	}
}
