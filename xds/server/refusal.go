package server

import "slices"

// refusal is a resource that a sidecar refused.
type refusal struct {
	version  string // "" when it refused to be without it
	why      string
	revision int64 // of the response
}

// part is what a response is about. A response that was refused is sent again in parts, each half of the one before,
// until one that is refused is a single resource: a bad one keeps no good one away.
type part struct {
	names  map[string]struct{}
	oldest int64 // revision of the first change in it
	again  bool  // it was refused before, with others or among others
	urgent int64 // revision of the first urgent change in it; 0: none
}

// maxAccepted is how many accepted responses are remembered, in case that Envoy refuses them later.
const maxAccepted = 8

// answered notes an ACK, or with why a NACK. A sidecar that accepted a response may refuse it later, under the same
// nonce, when its Envoy does.
func (c *Cache) answered(id int64, typeURL, nonce, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil || s.types[typeURL] == nil {
		return
	}
	t := s.types[typeURL]
	named := func(s sent) bool { return s.nonce == nonce }
	if i := slices.IndexFunc(t.waiting, named); i >= 0 {
		response := t.waiting[i]
		t.waiting = slices.Clone(t.waiting[i+1:])
		if why == "" {
			t.accept(response)
		} else {
			t.refuse(response, why)
		}
	} else if i := slices.IndexFunc(t.accepted, named); i >= 0 && why != "" {
		response := t.accepted[i]
		t.accepted = slices.Delete(t.accepted, i, i+1)
		t.refuse(response, why)
	}
	c.signal()
}

func (t *subscription) accept(response sent) {
	for _, change := range response.changes {
		delete(t.refused, change.name) // it was another version, or it would not have been sent
	}
	if typeOrder[t.typeURL] == 0 {
		return // the Go process refuses at once
	}
	t.accepted = append(t.accepted, response)
	if extra := len(t.accepted) - maxAccepted; extra > 0 {
		t.accepted = slices.Delete(t.accepted, 0, extra)
	}
}

// refuse notes that the stream has nothing of the response. The sidecar is told so too, in case that it kept some of
// it, before the response is sent again in parts.
func (t *subscription) refuse(response sent, why string) {
	var names []string
	for _, change := range response.changes {
		if t.has[change.name] != change.after {
			continue // there is a newer one on its way
		}
		t.note(change.name, change.before)
		names = append(names, change.name)
		if t.undo == nil {
			t.undo = map[string]struct{}{}
		}
		t.undo[change.name] = struct{}{}
	}
	if response.again && len(response.changes) == 1 {
		t.refused[response.changes[0].name] = refusal{response.changes[0].after.version(), why, response.revision}
		return
	}
	slices.Sort(names)
	var parts []part
	for _, half := range [][]string{names[:len(names)/2], names[len(names)/2:]} {
		if len(half) == 0 {
			continue
		}
		p := part{names: map[string]struct{}{}, oldest: response.oldest, again: true, urgent: response.urgent}
		for _, name := range half {
			p.names[name] = struct{}{}
		}
		parts = append(parts, p)
	}
	t.parts = append(parts, t.parts...)
}
