package share

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// How long what was agreed lasts.
const (
	// Lease is how long a session lasts after the report that it answers, as the allocator sees it.
	Lease = 2 * time.Second
	// OwnLease is the same as the member sees it, from when it sent the report.
	OwnLease = Lease * 9 / 10
	// Hold is how long after it was last heard an allocator may still have lent a member's part to others: it notices
	// within a Lease, and those have given it back within another.
	Hold = 2*Lease + Lease/4
)

// Unlimited is the amount of a limit that has no bound.
const Unlimited = -1

// Amount is so much of each kind of a limit.
type Amount struct {
	Rate        int64 // thousandths of a request a second
	Burst       int64 // requests
	Concurrency int64 // requests
}

// Bounds of what a limit may be; what is beyond them counts as them.
const (
	maxRate  = 1_000_000_000
	maxCount = 1_000_000
)

// Of is a limit as an amount. A rate that is no number is the least there is.
func Of(l policy.ClassLimit) Amount {
	a := Amount{Unlimited, 0, Unlimited}
	if math.IsNaN(l.RequestsPerSecond) {
		a.Rate = 1
	} else if l.RequestsPerSecond > 0 {
		a.Rate = int64(max(1, min(l.RequestsPerSecond*1000, maxRate)))
	}
	if a.Rate != Unlimited {
		a.Burst = int64(min(max(1, l.Burst), maxCount))
	}
	if l.Concurrency > 0 {
		a.Concurrency = int64(min(l.Concurrency, maxCount))
	}
	return a
}

// kinds are the fields of an amount, so that what holds for one kind is written once.
var kinds = [3]func(*Amount) *int64{
	func(a *Amount) *int64 { return &a.Rate },
	func(a *Amount) *int64 { return &a.Burst },
	func(a *Amount) *int64 { return &a.Concurrency },
}

// Plus is the sum; what is unlimited stays so.
func (a Amount) Plus(b Amount) Amount {
	return Amount{plus(a.Rate, b.Rate), plus(a.Burst, b.Burst), plus(a.Concurrency, b.Concurrency)}
}

func plus(a, b int64) int64 {
	if a < 0 || b < 0 {
		return Unlimited
	}
	return a + b
}

// Min is the smaller of each kind.
func (a Amount) Min(b Amount) Amount {
	return Amount{least(a.Rate, b.Rate), least(a.Burst, b.Burst), least(a.Concurrency, b.Concurrency)}
}

func least(a, b int64) int64 {
	if a < 0 {
		return b
	}
	if b < 0 {
		return a
	}
	return min(a, b)
}

// Part is a member's place in a group.
type Part struct {
	Rank, Of int    // from 0, of so many; Of 0: not in the group
	Digest   string // of the group, as the member knows it
	// Counted says that every other member has divided by a number that includes this one: only then is the part its own.
	Counted bool
}

// Whole reports whether the member is alone, and all is its own.
func (p Part) Whole() bool { return p.Of == 1 && p.Rank == 0 }

// valid reports whether there is such a place.
func (p Part) valid() bool { return p.Of > 0 && p.Rank >= 0 && p.Rank < p.Of }

// Own is the member's part of a limit: all parts are the limit. When a member leaves, nobody's part becomes smaller, so
// that parts add up to no more than the limit while members know of different groups, as long as each knows of all whose
// part counts.
func (p Part) Own(limit Amount) Amount {
	if p.Whole() {
		return limit
	}
	if !p.valid() || !p.Counted {
		return none(limit)
	}
	return Amount{p.split(limit.Rate), p.split(limit.Burst), p.split(limit.Concurrency)}
}

// Of the part this much is standing, in a session.
const (
	standingRate  = 25 // one in so many: the others' is less than a twentieth of the limit
	standingCount = 2  // of bursts and concurrency
)

// Standing is what a member keeps of its part in a session, once its allocator has agreed to the part; no more than the
// part.
func (p Part) Standing(limit Amount) Amount {
	if p.Whole() {
		return limit
	}
	if !p.valid() {
		return none(limit)
	}
	return Amount{p.split(fraction(limit.Rate, standingRate)), p.split(fraction(limit.Burst, standingCount)), p.split(fraction(limit.Concurrency, standingCount))}
}

// under reports whether what is standing of p is for no limit more than that of q.
func (p Part) under(q Part) bool {
	return !p.valid() || q.valid() && p.Of >= q.Of && p.Rank >= q.Rank
}

func fraction(amount, of int64) int64 {
	if amount < 0 {
		return amount
	}
	return amount / of
}

// none is nothing of what is limited.
func none(limit Amount) Amount {
	return Amount{least(limit.Rate, 0), least(limit.Burst, 0), least(limit.Concurrency, 0)}
}

func (p Part) split(amount int64) int64 {
	if amount < 0 {
		return amount
	}
	share := amount / int64(p.Of)
	if int64(p.Rank) < amount%int64(p.Of) {
		share++
	}
	return share
}

// Zero reports whether nothing of something limited is there: no request conforms.
func (a Amount) Zero() bool { return a.Rate == 0 || a.Rate > 0 && a.Burst == 0 || a.Concurrency == 0 }

// Limit is the amount as a limit. Nothing of a rate is 0 requests a second.
func (a Amount) Limit() policy.ClassLimit {
	l := policy.ClassLimit{RequestsPerSecond: policy.Unlimited, Burst: int(a.Burst), Concurrency: int(a.Concurrency)}
	if a.Rate >= 0 {
		l.RequestsPerSecond = float64(a.Rate) / 1000
	}
	return l
}

// PartOf is a member's place in a group, whose members are sorted.
func PartOf(id string, members, counted []string) Part {
	rank, ok := slices.BinarySearch(members, id)
	if !ok {
		return Part{}
	}
	return Part{Rank: rank, Of: len(members), Digest: Digest(members), Counted: slices.Contains(counted, id)}
}

// Digest is short, and other for another group.
func Digest(members []string) string {
	sum := sha256.Sum256([]byte(strings.Join(members, ",")))
	return hex.EncodeToString(sum[:8])
}
