package trail

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// Export is the first line of one tenant's own trail as JSON lines: what the rest must be, signed by the control plane.
// After it come batches, then administrative events about the tenant, one [Line] each.
type Export struct {
	Tenant    string            `json:"tenant"` // "": of no tenant
	TenantUID string            `json:"tenantUid,omitempty"`
	Since     time.Time         `json:"since,omitzero"` // batches that end before it are left out
	Heads     map[string]Newest `json:"heads"`          // the newest of each member's stream that was acknowledged, as the store keeps it
	Events    []Pointer         `json:"administrative"` // the administrative events that follow
	Chain     ledger.Head       `json:"chain"`          // the end of the chain of all administrative events
	Bundle    string            `json:"bundle"`         // PEM: the trust bundles that vouched for the signers
	Signed    Signature         `json:"signed"`         // by the control plane
}

// Newest is a member's newest event about a tenant that was acknowledged.
type Newest struct {
	ledger.Head
	Principal string `json:"principal"` // SPIFFE ID of the member, whose key signs
}

// Pointer is one administrative event, as the line that holds it is.
type Pointer struct {
	Sequence int64  `json:"sequence"`
	Hash     string `json:"hash"` // in the chain
	Line     string `json:"line"` // hex SHA-256 of [Line].Event
}

// Line is a line of an export: one of its fields is set.
type Line struct {
	Export   *Export         `json:"export,omitempty"`
	Batch    *Batch          `json:"batch,omitempty"`
	Event    json.RawMessage `json:"administrative,omitempty"` // a [ledger.Event]
	Redacted bool            `json:"redacted,omitempty"`       // Event is without before and after, which name other tenants too
}

func (e *Export) signed(principal string, at time.Time) []byte {
	return text("tenantmesh audit export 1", e.Tenant, e.TenantUID, e.Since, e.Heads, e.Events, e.Chain, e.Bundle, principal, at.UTC())
}

// Write writes an export. administrative are the events about the tenant, in their order, each with what it is without
// what it says of others.
func Write(out io.Writer, e Export, batches iter.Seq2[Batch, error], administrative []Line, now time.Time, signer Signer) error {
	e.Events = []Pointer{}
	for _, line := range administrative {
		var event ledger.Event
		if err := json.Unmarshal(line.Event, &event); err != nil {
			return err
		}
		e.Events = append(e.Events, Pointer{event.Sequence, event.Hash, lineHash(line)})
	}
	var err error
	if e.Signed, err = sign(signer, now, e.signed); err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	if err := encoder.Encode(Line{Export: &e}); err != nil {
		return err
	}
	for b, err := range batches {
		if err != nil {
			return err
		}
		if err := encoder.Encode(Line{Batch: &b}); err != nil {
			return err
		}
	}
	for _, line := range administrative {
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return nil
}

func lineHash(line Line) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%t:%s", line.Redacted, line.Event))
	return hex.EncodeToString(sum[:])
}

// Trail is what a verification found.
type Trail struct {
	Export         Export
	Events         []Event
	Administrative []ledger.Event
	Problems       []error // what is not as it was recorded; none: everything is
	Notes          []string
}

// Read reads exports of one tenant, such as of several control planes, and verifies them. roots vouch for the signers; nil:
// the bundle of the first export does, and whoever looks must know it by its fingerprint. An error is one of reading.
func Read(roots *x509.CertPool, files ...io.Reader) (*Trail, error) {
	t := &Trail{}
	v := verification{Trail: t, roots: roots, streams: map[Stream][]Batch{}, several: len(files) > 1}
	for i, file := range files {
		if err := v.read(i, file); err != nil {
			return nil, err
		}
	}
	v.check()
	return t, nil
}

type verification struct {
	*Trail
	roots   *x509.CertPool
	streams map[Stream][]Batch
	heads   map[string]Newest
	several bool // exports: two control planes may have been told of the same batch
}

func (v *verification) problem(err error) { v.Problems = append(v.Problems, err) }

// maxLine bounds a line of an export, in bytes.
const maxLine = 64 << 20

func (v *verification) read(index int, file io.Reader) error {
	in := bufio.NewScanner(file)
	in.Buffer(make([]byte, 1<<16), maxLine)
	var export *Export
	next := 0
	for n := 1; in.Scan(); n++ {
		var line Line
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			v.problem(broken("line %d cannot be read: %v", n, err))
			continue
		}
		switch {
		case line.Export != nil && export == nil:
			export = line.Export
			if err := v.begin(index, export); err != nil {
				return err
			}
		case line.Batch != nil && export != nil && len(line.Batch.Events) > 0:
			v.streams[line.Batch.Stream] = append(v.streams[line.Batch.Stream], *line.Batch)
		case line.Event != nil && export != nil:
			next = v.administrative(n, next, export, line)
		default:
			v.problem(broken("line %d is none that belongs there", n))
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	if export == nil {
		return errors.New("the file must begin with the line of an export")
	}
	for _, missing := range export.Events[min(next, len(export.Events)):] {
		v.problem(broken("administrative event %d is missing", missing.Sequence))
	}
	return nil
}

func (v *verification) begin(index int, e *Export) error {
	if v.roots == nil {
		v.roots = x509.NewCertPool()
		v.roots.AppendCertsFromPEM([]byte(e.Bundle))
		v.Notes = append(v.Notes, "the trust bundle is the export's own; compare its fingerprint with the mesh's: "+Fingerprint(e.Bundle))
	}
	if err := e.Signed.verify(v.roots, e.signed); err != nil {
		v.problem(broken("the export's first line: %v", err))
	} else if id := e.Signed.Certificates; len(id) > 0 && !isControl(e.Signed.Principal) {
		v.problem(broken("the export is signed by %s, which is no control plane", e.Signed.Principal))
	}
	if index == 0 {
		v.Export, v.heads = *e, map[string]Newest{}
	} else if e.TenantUID != v.Export.TenantUID {
		return fmt.Errorf("the exports must be of one tenant (got uid %q and %q)", v.Export.TenantUID, e.TenantUID)
	}
	if e.Since.Before(v.Export.Since) {
		v.Export.Since = e.Since
	}
	for member, head := range e.Heads {
		if head.Sequence > v.heads[member].Sequence {
			v.heads[member] = head
		}
	}
	return nil
}

// isControl reports whether an ID is the control plane's: spiffe://<trust domain>/control.
func isControl(principal string) bool {
	rest, ok := bytes.CutPrefix([]byte(principal), []byte("spiffe://"))
	domain, path, found := bytes.Cut(rest, []byte("/"))
	return ok && found && len(domain) > 0 && string(path) == "control"
}

// administrative checks a line against the pointer that is next, and returns the one after it.
func (v *verification) administrative(n, next int, e *Export, line Line) int {
	var event ledger.Event
	if err := json.Unmarshal(line.Event, &event); err != nil {
		v.problem(broken("line %d cannot be read: %v", n, err))
		return next
	}
	at := slices.IndexFunc(e.Events, func(p Pointer) bool { return p.Sequence == event.Sequence })
	switch {
	case at < 0:
		v.problem(broken("administrative event %d was put in", event.Sequence))
		return next
	case at < next:
		v.problem(broken("administrative event %d is there twice, or moved", event.Sequence))
		return next
	}
	for _, missing := range e.Events[next:at] {
		v.problem(broken("administrative event %d is missing", missing.Sequence))
	}
	if lineHash(line) != e.Events[at].Line {
		v.problem(broken("administrative event %d was changed", event.Sequence))
	} else if !line.Redacted && !event.Intact() {
		v.problem(broken("administrative event %d is not as its hash says", event.Sequence))
	}
	v.Administrative = append(v.Administrative, event)
	return at + 1
}

// check goes along each stream.
func (v *verification) check() {
	for member := range v.heads {
		if s := (Stream{member, v.Export.TenantUID}); v.streams[s] == nil {
			v.streams[s] = nil
		}
	}
	streams := make([]Stream, 0, len(v.streams))
	for s := range v.streams {
		streams = append(streams, s)
	}
	slices.SortFunc(streams, func(a, b Stream) int { return bytes.Compare([]byte(a.Member), []byte(b.Member)) })
	for _, s := range streams {
		if s.TenantUID != v.Export.TenantUID {
			v.problem(broken("the %v is in the export of another tenant", s))
			continue
		}
		v.stream(s, v.streams[s])
	}
	slices.SortStableFunc(v.Events, func(a, b Event) int { return a.Time.Compare(b.Time) })
}

func (v *verification) stream(s Stream, batches []Batch) {
	end := v.heads[s.Member]
	if v.several {
		slices.SortStableFunc(batches, func(a, b Batch) int { return cmp.Compare(a.Previous.Sequence, b.Previous.Sequence) })
	}
	var at ledger.Head
	seen := map[ledger.Head]bool{}
	for i := range batches {
		b := &batches[i]
		head := b.Head()
		if seen[head] && v.several {
			continue // two control planes were told of it
		}
		seen[head] = true
		if i == 0 {
			at = b.Previous
			if at.Sequence > 0 && v.Export.Since.IsZero() {
				v.problem(broken("the %v begins with event %d: those before it are missing, or were rotated away", s, at.Sequence+1))
			}
		}
		switch {
		case b.Previous == at:
		case b.Previous.Sequence > at.Sequence:
			v.problem(broken("events %d to %d of the %v are missing", at.Sequence+1, b.Previous.Sequence, s))
		case b.Previous.Sequence < at.Sequence:
			v.problem(broken("events %d to %d of the %v are there twice, or out of their order", b.Previous.Sequence+1, head.Sequence, s))
		default:
			v.problem(broken("event %d of the %v does not follow event %d", b.Previous.Sequence+1, s, at.Sequence))
		}
		events, err := b.Verify(v.roots)
		if err != nil {
			v.problem(err)
		}
		if owner := cmp.Or(end.Principal, batches[0].Signed.Principal); b.Signed.Principal != owner {
			v.problem(broken("events %d to %d of the %v are signed by %s, and the member is %s", b.Previous.Sequence+1, head.Sequence, s, b.Signed.Principal, owner))
		}
		v.Events = append(v.Events, events...)
		at = head
	}
	switch {
	case at.Sequence < end.Sequence && len(batches) == 0 && !v.Export.Since.IsZero():
		v.Notes = append(v.Notes, fmt.Sprintf("the %v has %d events, all before what was asked for", s, end.Sequence))
	case at.Sequence < end.Sequence:
		v.problem(broken("the %v ends with event %d, and the store knows of %d: those after it were taken out", s, at.Sequence, end.Sequence))
	case at.Sequence == end.Sequence && at.Hash != end.Hash && end.Sequence > 0:
		v.problem(broken("event %d of the %v is not the one that the store knows", at.Sequence, s))
	case at.Sequence > end.Sequence && end.Sequence > 0:
		found := false
		for i := range batches {
			for j, e := range batches[i].Events {
				found = found || batches[i].Previous.Sequence+int64(j)+1 == end.Sequence && e.Hash == end.Hash
			}
		}
		if begin := batches[0].Previous.Sequence; !found && begin < end.Sequence {
			v.problem(broken("event %d of the %v is not the one that the store knows", end.Sequence, s))
		}
		fallthrough
	case at.Sequence > end.Sequence:
		v.Notes = append(v.Notes, fmt.Sprintf("events %d to %d of the %v are newer than the newest head that the store keeps: that none is missing after them is not proven yet", end.Sequence+1, at.Sequence, s))
	}
}

// Fingerprint is the hex SHA-256 of the certificates in a PEM text.
func Fingerprint(bundle string) string {
	h := sha256.New()
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return hex.EncodeToString(h.Sum(nil))
		}
		h.Write(block.Bytes)
	}
}
