package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Member is how far one sidecar is.
type Member struct {
	ID        string    `json:"id,omitempty"` // of one that is out of reach
	Principal string    `json:"principal"`
	Role      string    `json:"role"`
	Cell      string    `json:"cell,omitempty"`
	Workload  string    `json:"workload,omitempty"`
	Enforced  bool      `json:"enforced"` // all that the revision asks of it is applied
	Refused   []Refusal `json:"refused,omitempty"`
	// OutOfReach says that it is connected to no control plane, and serves what it had when it was.
	OutOfReach bool `json:"outOfReach,omitempty"`
	// Heard is when it can have heard of the control plane last, of one that is out of reach.
	Heard *time.Time `json:"heard,omitempty"`
	// GrantAge and IssuerAge are its own bounds in seconds, where they are not the defaults.
	GrantAge  float64 `json:"grantAge,omitempty"`
	IssuerAge float64 `json:"issuerAge,omitempty"`
}

// Refusal is a resource that a sidecar refused (NACK): it has the one before, or none, until it accepts another.
type Refusal struct {
	TypeURL  string `json:"typeUrl"`
	Name     string `json:"name"`
	Error    string `json:"error"`
	Revision int64  `json:"revision"` // of the store, when it was sent
}

// Status says how far a revision is.
type Status struct {
	Revision  int64    `json:"revision"`  // asked about
	Published int64    `json:"published"` // the newest that was given out
	Enforced  int      `json:"enforced"`
	Refused   int      `json:"refused"`
	Total     int      `json:"total"` // of those that are connected here
	Members   []Member `json:"members"`
	// OutOfReach are those of Members that are connected nowhere: neither left nor fenced, they may serve still.
	OutOfReach int `json:"outOfReach"`
	// At is when the last of those that are connected had answered for it, of a status that was waited for.
	At *time.Time `json:"at,omitempty"`

	settled bool // every sidecar has answered for it
}

// Done reports whether every connected sidecar enforces the revision.
func (s Status) Done() bool { return s.Published >= s.Revision && s.Enforced == s.Total }

// Add adds members that are out of reach.
func (s *Status) Add(absent []Member) {
	s.Members = append(s.Members, absent...)
	s.OutOfReach += len(absent)
}

// Status says how far revision is; 0 asks about the newest.
func (c *Cache) Status(revision int64) Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status(revision)
}

func (c *Cache) status(revision int64) Status {
	if revision == 0 {
		revision = c.revision
	}
	enforced, published := func(s *stream) bool { return s.enforces(revision) }, c.revision
	if i := slices.IndexFunc(c.ahead, func(a ahead) bool { return a.revision == revision }); i >= 0 {
		enforced, published = c.ahead[i].enforced, max(published, revision)
	}
	status := Status{Revision: revision, Published: published, settled: published >= revision}
	for _, s := range c.streams {
		member := Member{Principal: s.principal, Role: s.subject.Role, Cell: s.subject.Cell, Workload: s.subject.Workload, Enforced: published >= revision && len(s.types) > 0 && enforced(s)}
		for _, t := range s.types {
			for name, r := range t.refused {
				member.Refused = append(member.Refused, Refusal{t.typeURL, name, r.why, r.revision})
			}
		}
		status.settled = status.settled && member.Enforced
		slices.SortFunc(member.Refused, func(a, b Refusal) int {
			return cmp.Or(strings.Compare(a.TypeURL, b.TypeURL), strings.Compare(a.Name, b.Name))
		})
		status.Total++
		if len(member.Refused) > 0 {
			member.Enforced = false
			status.Refused++
		}
		if member.Enforced {
			status.Enforced++
		}
		status.Members = append(status.Members, member)
	}
	slices.SortFunc(status.Members, func(a, b Member) int { return strings.Compare(a.Principal, b.Principal) })
	return status
}

// Refused says which sidecar refused what was pushed at a revision or later, and why; "" for none.
func (c *Cache) Refused(revision int64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		for _, t := range s.types {
			for name, r := range t.refused {
				if r.revision >= revision {
					return fmt.Sprintf("%s refused %q of %s at revision %d: %s", s.principal, name, t.typeURL, r.revision, r.why)
				}
			}
		}
	}
	return ""
}

// enforces reports whether no change up to revision, of any type, is pending or unanswered.
func (s *stream) enforces(revision int64) bool {
	for _, t := range s.types {
		if !t.enforces(revision) {
			return false
		}
	}
	return true
}

// enforces reports whether no change up to revision is pending or unanswered.
func (t *subscription) enforces(revision int64) bool {
	if t.oldest != 0 && t.oldest <= revision || slices.ContainsFunc(t.parts, func(p part) bool { return p.oldest <= revision }) {
		return false
	}
	return !slices.ContainsFunc(t.waiting, func(s sent) bool { return s.oldest <= revision })
}

// Wait returns the status of revision once every connected sidecar has enforced or refused it, or ctx ends.
func (c *Cache) Wait(ctx context.Context, revision int64) (Status, error) {
	for {
		c.mu.Lock()
		status, changed := c.status(revision), c.changed
		c.mu.Unlock()
		if status.settled {
			at := time.Now().UTC()
			status.At = &at
			return status, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status, ctx.Err()
		}
	}
}

func (c *Cache) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}
