package trail

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// Stream is whose events, as whom they are about.
type Stream struct {
	Member    string `json:"member"`
	TenantUID string `json:"tenantUid,omitempty"` // "": of no tenant
}

func (s Stream) String() string {
	if s.TenantUID == "" {
		return "stream of member " + s.Member + " about no tenant"
	}
	return "stream of member " + s.Member + " about tenant uid " + s.TenantUID
}

// Sealed is an event in its place.
type Sealed struct {
	Event json.RawMessage `json:"event"` // an [Event], the very bytes that were hashed
	Hash  string          `json:"hash"`  // hex SHA-256 of the stream, the hash before, and Event
}

// seal numbers and hashes an event as the one after head.
func seal(s Stream, head ledger.Head, e Event) (Sealed, ledger.Head) {
	e.Sequence = head.Sequence + 1
	text := e.encode()
	hash := digest(s, head.Hash, text)
	return Sealed{text, hash}, ledger.Head{Sequence: e.Sequence, Hash: hash}
}

func digest(s Stream, previous string, event []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("tenantmesh audit event 1"), []byte(s.Member), []byte(s.TenantUID), []byte(previous), event} {
		fmt.Fprintf(h, "%d:", len(part)) // so that no two lists of parts are one text
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ErrBroken is what is wrong with a trail that is not what was recorded.
var ErrBroken = errors.New("the trail is not what was recorded")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, args...))
}

// follow returns the head after events, and the events, or an error that names the first that does not follow.
func follow(s Stream, head ledger.Head, sealed []Sealed) (ledger.Head, []Event, error) {
	events := make([]Event, 0, len(sealed))
	for _, next := range sealed {
		var e Event
		place := fmt.Sprintf("event %d of the %v", head.Sequence+1, s)
		if err := json.Unmarshal(next.Event, &e); err != nil {
			return head, events, broken("%s cannot be read: %v", place, err)
		}
		if e.Sequence != head.Sequence+1 {
			return head, events, broken("%s is missing, and event %d is in its place", place, e.Sequence)
		}
		if e.Member != s.Member || e.TenantUID != s.TenantUID {
			return head, events, broken("%s is of another stream", place)
		}
		if next.Hash != digest(s, head.Hash, next.Event) {
			return head, events, broken("%s was changed, or what was before it was", place)
		}
		head = ledger.Head{Sequence: e.Sequence, Hash: next.Hash}
		events = append(events, e)
	}
	return head, events, nil
}
