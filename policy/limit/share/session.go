package share

import "time"

// Session is how a member stands with its allocator. It is not changed once it was published.
type Session struct {
	Until    time.Time       // what was granted is its own until then
	Rise     time.Time       // from then on its part is, unless a session began before
	RiseOpen time.Time       // and for concurrency: what others let in by it has ended
	Standing map[string]Part // by group: of which part something is standing
	Lender   Lender
}

// Lender says from when on a member's part is no other allocator's to lend, for one that went from one to another. Until
// then it lends nothing, and has what it would have without either.
type Lender struct {
	until    time.Time // what the other granted is its own until then
	from     time.Time
	fromOpen time.Time
}

// Leave is the lender of a member that goes to another allocator.
func (s *Session) Leave() Lender { return Lender{s.Until, s.Rise, s.RiseOpen} }

// Lends reports whether the part may be lent, and that for concurrency.
func (l Lender) Lends(now time.Time) (lends, open bool) {
	return !now.Before(l.from), !now.Before(l.fromOpen)
}

// Phase is how far a session is.
type Phase uint8

// The phases. Up to In grants are in force.
const (
	Both     Phase = iota // and those of another allocator before, too: nothing is lent
	NotLent               // nothing is lent
	OpenLent              // the part is lent, but for concurrency
	In                    // the part is lent, but for what is standing
	Over                  // what it had, and no more than the part
	Risen                 // the part, but for concurrency
	RisenAll              // the part
)

// Phase is that of now.
func (s *Session) Phase(now time.Time) Phase {
	lends, open := s.Lender.Lends(now)
	switch {
	case now.Before(s.Until) && !lends && now.Before(s.Lender.until):
		return Both
	case now.Before(s.Until) && !lends:
		return NotLent
	case now.Before(s.Until) && !open:
		return OpenLent
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

// Usable is what a member may use of a limit. Of standing something is standing, granted is what it was given in the session,
// and before what another allocator had.
func (p Part) Usable(limit Amount, phase Phase, standing Part, granted, before Amount) Amount {
	if p.Whole() {
		return limit
	}
	own, stands := p.Own(limit), standing.Standing(limit)
	had, alone := stands.Plus(granted).Min(limit), stands.Plus(before).Min(own)
	switch phase {
	case Both:
		return stands.Plus(before).Plus(granted).Min(limit)
	case NotLent:
		return alone.Plus(granted).Min(limit)
	case OpenLent:
		return Amount{had.Rate, had.Burst, alone.Plus(granted).Min(limit).Concurrency}
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
