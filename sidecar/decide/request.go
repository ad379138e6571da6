package decide

import (
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/policy"
)

// Request is what is asked. It may be used again once the answer to it is not looked at any more.
type Request struct {
	Listener             string // one of meshname's
	Target               string // "workload/<name>" or "dependency/<name>", "" when no route names one
	Forwarded            bool   // [Decider.Onward]: by another gateway, to this one as the tenant's mover
	ForwardAuthorization bool
	Method               string
	Path                 string // as Envoy has it, with its query
	Headers              Headers
	Peer                 string // URI of the certificate at the other end of the connection
	Lease                string
	Tokens               []Token // those that Envoy verified
	TokenFailure         string  // why it verified none

	limits [8]policy.LimitResult // of the answer
}

func (r *Request) header(name string) (string, int) { return r.Headers.Get(name) }

// Token is a token that Envoy verified.
type Token struct {
	Issuer string
	Claims Claims
}

// Claims are a token's claims.
type Claims interface {
	// Text is the value of a claim, "" unless it is there and a text.
	Text(claim string) string
}

// headers are those that a decision looks at, in lower case.
var headers = [...]string{
	propagation.HeaderTxnToken, propagation.HeaderTraceparent, propagation.HeaderRequestID, propagation.HeaderLease, propagation.HeaderPeer, propagation.HeaderClientRequestID,
	propagation.HeaderIdempotencyKey, propagation.HeaderAttemptCount, propagation.HeaderGRPCAttempts, propagation.HeaderPurpose,
	"authorization", "upgrade", ":authority", "content-type", "accept",
}

// Headers are the values of those headers that a decision looks at; others are not kept. The zero value has none.
type Headers [len(headers)]struct {
	value string // the first
	n     int
}

func slot(name string) int {
	for i := range headers {
		if headers[i] == name {
			return i
		}
	}
	return -1
}

// Add adds a value of a header, whose name is in lower case.
func (h *Headers) Add(name, value string) {
	if i := slot(name); i >= 0 {
		if h[i].n++; h[i].n == 1 {
			h[i].value = value
		}
	}
}

// Get is the first value of a header, and how many there are.
func (h *Headers) Get(name string) (value string, n int) {
	if i := slot(name); i >= 0 {
		return h[i].value, h[i].n
	}
	return "", 0
}

// HeadersOf takes what it looks at from values, by their names in lower case.
func HeadersOf(values map[string][]string) Headers {
	var h Headers
	for name, list := range values {
		for _, value := range list {
			h.Add(name, value)
		}
	}
	return h
}

// Fields are the headers that an allowed request gets: each is set, or taken out. The zero value changes nothing.
type Fields struct {
	list [12]Field
	n    int
}

// Field is one header: with a Value, to overwrite; with Remove, to take out.
type Field struct {
	Name, Value string
	Remove      bool
}

// All are the headers, each once. It is not to be changed.
func (f *Fields) All() []Field { return f.list[:f.n] }

// Get is the value that a header is set to; "" when it is not set.
func (f *Fields) Get(name string) string {
	for i := range f.n {
		if f.list[i].Name == name {
			return f.list[i].Value
		}
	}
	return ""
}

// Removes reports whether a header is taken out.
func (f *Fields) Removes(name string) bool {
	for i := range f.n {
		if f.list[i].Name == name {
			return f.list[i].Remove
		}
	}
	return false
}

// Put says what becomes of a header. The last word on one counts.
func (f *Fields) Put(field Field) {
	for i := range f.n {
		if f.list[i].Name == field.Name {
			f.list[i] = field
			return
		}
	}
	f.list[f.n] = field // an index out of range is a bug: a decision says little, and always the same
	f.n++
}
