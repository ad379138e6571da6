package ledger

import (
	"encoding/json"
	"time"
)

// Event is one audit event: who did what to which object, from what to what, and at which revision.
type Event struct {
	Sequence int64           `json:"sequence"` // 1, 2, 3, ... in its stream, set by [Head.Seal]
	Time     time.Time       `json:"time"`     // UTC
	Actor    string          `json:"actor"`    // a SPIFFE ID, or "uid:<n>" on the local socket
	Action   string          `json:"action"`   // "create", "update", "delete", "place", ...
	Object   string          `json:"object"`   // "<kind>/<name>"
	Tenant   string          `json:"tenant,omitempty"`
	Before   json.RawMessage `json:"before,omitempty"`
	After    json.RawMessage `json:"after,omitempty"`
	Detail   string          `json:"detail,omitempty"`
	Revision int64           `json:"revision,omitempty"` // the one it saw, before the write; the event's key has the write's own
	Previous string          `json:"previous"`           // hex SHA-256 of the event before, "" for the first
	Hash     string          `json:"hash"`               // hex SHA-256 over all the above
}
