package share

import "time"

// Session is how a member stands with its allocator. It is not changed once it was published.
type Session struct {
	Until    time.Time       // what was granted is its own until then
	Rise     time.Time       // from then on its part is, unless a session began before
	RiseOpen time.Time       // and for concurrency: what others let in by it has ended
	Standing map[string]Part // by group: of which part something is standing
}

// Lender says from when on a member's part is no other allocator's to lend. What it was with another allocator before, it
// is not for a member that is with the same again.
type Lender struct{ from, fromOpen time.Time }

// Lender is that of a member that goes to another allocator.
func (s *Session) Lender() Lender { return Lender{s.Rise, s.RiseOpen} }

// Lends reports whether the part may be lent, and that for concurrency.
func (l Lender) Lends(now time.Time) (lends, open bool) {
	return !now.Before(l.from), !now.Before(l.fromOpen)
}

// Phase is how far a session is.
type Phase uint8

// The phases, in their order.
const (
	In       Phase = iota // what is standing, and what was granted
	Over                  // the same, and no more than the part
	Risen                 // the part, but for concurrency
	RisenAll              // the part
)

// Phase is that of now.
func (s *Session) Phase(now time.Time) Phase {
	switch {
	case now.Before(s.Until):
		return In
	case now.Before(s.Rise):
		return Over
	case now.Before(s.RiseOpen):
		return Risen
	default:
		return RisenAll
	}
}

// Heard is the session after a response of its allocator, which answers a report that was sent at sent. tail is how long
// a request may be open.
func (s *Session) Heard(sent, now time.Time, tail time.Duration) *Session {
	next := s.Asked(now, tail)
	if until := sent.Add(OwnLease); until.After(next.Until) {
		next.Until = until
	}
	return next
}

// Asked is the session after an allocator asked its member, at now, to give up what it had: from then on it may lend the
// member's part.
func (s *Session) Asked(now time.Time, tail time.Duration) *Session {
	next := *s
	next.Rise = now.Add(Hold)
	next.RiseOpen = next.Rise.Add(tail)
	return &next
}

// Usable is what a member may use of a limit. Of standing something is standing, and granted is what it was given in the
// session.
func (p Part) Usable(limit Amount, phase Phase, standing Part, granted Amount) Amount {
	if p.Whole() {
		return limit
	}
	own, had := p.Own(limit), standing.Standing(limit).Plus(granted).Min(limit)
	switch phase {
	case In:
		return had
	case Over:
		return had.Min(own)
	case Risen:
		return Amount{own.Rate, own.Burst, least(had.Concurrency, own.Concurrency)}
	default:
		return own
	}
}
