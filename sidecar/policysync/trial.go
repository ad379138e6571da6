package policysync

import (
	"maps"
	"slices"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"
)

// verdictPatience is how long Envoy has to judge before the control plane is answered; it never judges what it has no
// use for.
const verdictPatience = 1500 * time.Millisecond

// trial is how far Envoy is with what was pushed of one type. What it refuses is taken back whole, with what was pushed
// after it, and the last that it accepted is offered and kept, until the next push: that is tried with all of the type.
type trial struct {
	accepted map[string]Resource // by name
	pending  []*push             // not judged, in order
	refused  bool                // accepted is what is offered, and not what was pushed
}

// push is one response for Envoy.
type push struct {
	typeURL, nonce string
	sequence       int64
	resources      map[string]Resource // all of the type, as they are with this push
	answered       bool
}

type verdict struct {
	typeURL  string
	sequence int64
	refusal  error
}

// Judged is to be told, in order, of each answer of Envoy: of which type, as of which update, and why it refused it.
// It may wait until Run takes it.
func (c *Client) Judged(typeURL string, sequence int64, refusal error) {
	if c.trial[typeURL] != nil {
		c.verdicts <- verdict{typeURL, sequence, refusal}
	}
}

// try waits for Envoy's verdict on a response that is applied.
func (c *Client) try(response *discovery.DeltaDiscoveryResponse, sequence int64) {
	p := &push{typeURL: response.TypeUrl, nonce: response.Nonce, sequence: sequence, resources: maps.Clone(c.state.Resources[response.TypeUrl])}
	c.trial[p.typeURL].pending = append(c.trial[p.typeURL].pending, p)
	time.AfterFunc(verdictPatience, func() {
		select {
		case c.late <- p:
		default: // far more than there ever are; the control plane waits for the verdict itself
		}
	})
}

// judge takes a verdict, and reports whether what is good has changed.
func (c *Client) judge(v verdict) (changed bool) {
	t := c.trial[v.typeURL]
	judged := 0
	for judged < len(t.pending) && t.pending[judged].sequence <= v.sequence {
		judged++
	}
	if v.refusal != nil {
		return c.takeBack(v, judged > 0)
	}
	for _, p := range t.pending[:judged] {
		t.accepted = p.resources
		c.conclude(p, nil)
	}
	t.pending = slices.Delete(t.pending, 0, judged)
	return judged > 0
}

func (c *Client) takeBack(v verdict, pending bool) (changed bool) {
	t := c.trial[v.typeURL]
	if !pending { // what was good once
		c.conclude(&push{typeURL: v.typeURL}, v.refusal)
		return false
	}
	for _, p := range t.pending {
		p.answered = false // an answer for want of a verdict does not hold
		c.conclude(p, v.refusal)
	}
	t.pending, t.refused = nil, true
	if _, err := c.Envoy.Update(c.offered(), c.Sets.Load()); err != nil {
		c.Log.Error("the last good state could not be given to Envoy", zap.Error(err))
	}
	return false
}

// conclude answers the control plane, once: for a response that came by another stream, under the nonce of the last.
func (c *Client) conclude(p *push, refusal error) {
	nonce := p.nonce
	if nonce == "" && refusal != nil {
		c.mu.Lock()
		nonce = c.nonces[p.typeURL]
		c.mu.Unlock()
	}
	if !p.answered && nonce != "" {
		p.answered = true
		c.answer(p.typeURL, nonce, refusal)
	}
}

// unanswered forgets the nonces of a stream that is gone.
func (t *trial) unanswered() {
	for _, p := range t.pending {
		p.nonce = ""
	}
}

// forget drops what Envoy refused: over a new stream the control plane pushes it again, and is told again.
func (c *Client) forget(typeURL string) {
	if t := c.trial[typeURL]; t != nil && t.refused {
		c.state.Resources[typeURL] = maps.Clone(t.accepted)
	}
}

// offered is what Envoy may have: what was pushed, but for the types whose last push it refused.
func (c *Client) offered() *State {
	return c.with(func(t *trial) bool { return t.refused })
}

// good is what is kept: of what is for Envoy, only what it accepted.
func (c *Client) good() *State {
	return c.with(func(*trial) bool { return true })
}

func (c *Client) with(back func(*trial) bool) *State {
	s := *c.state
	s.Resources = maps.Clone(s.Resources)
	for typeURL, t := range c.trial {
		if back(t) {
			s.Resources[typeURL] = t.accepted
		}
	}
	return &s
}
