package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Head is the end of a chain of events. The zero value is the empty chain.
type Head struct {
	Sequence int64  `json:"sequence"`
	Hash     string `json:"hash"`
}

// Seal returns event as the one after head, numbered and hashed, and the new head.
func (h Head) Seal(event Event) (Event, Head) {
	event.Sequence, event.Previous = h.Sequence+1, h.Hash
	event.Time = event.Time.UTC()
	event.Hash = event.digest()
	return event, Head{event.Sequence, event.Hash}
}

// Verify returns the head after events, or an error that names the first event that was changed, taken out
// or put in.
func (h Head) Verify(events []Event) (Head, error) {
	for _, event := range events {
		if event.Sequence != h.Sequence+1 || event.Previous != h.Hash || event.Hash != event.digest() {
			return h, fmt.Errorf("audit event %d does not follow event %d: the chain was altered there", event.Sequence, h.Sequence)
		}
		h = Head{event.Sequence, event.Hash}
	}
	return h, nil
}

// Intact reports whether the event is as its hash says.
func (e Event) Intact() bool { return e.Hash == e.digest() }

func (e Event) digest() string {
	e.Hash = ""
	text, err := json.Marshal(e)
	if err != nil {
		panic(err) // Before and After are JSON that this program made
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
