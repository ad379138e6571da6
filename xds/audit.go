package xds

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// Audit is where the events of decisions are kept.
type Audit struct {
	Archive *trail.Archive
	// Roots vouch for members now; they are kept, so that what was signed can be verified later.
	Roots func() (*x509.CertPool, error)
	// Kept is told of each batch that was kept; nil: nobody is.
	Kept func(*trail.Batch)
}

// headInterval is how often the newest events that are kept are noted in the store.
const headInterval = 5 * time.Second

// audit keeps what a member says was decided, in its own name alone, and tells it so once it is on the disk.
func (m *Members) audit(peer *server.Peer, report *api.AuditBatch) error {
	if m.Audit.Archive == nil {
		return status.Error(codes.Unimplemented, "audit events are not kept here")
	}
	roots, err := m.Audit.Roots()
	if err != nil {
		return err
	}
	for _, text := range report.Batches {
		var b trail.Batch
		if err := json.Unmarshal(text, &b); err != nil || len(b.Events) == 0 {
			return status.Errorf(codes.InvalidArgument, "a batch of audit events cannot be read: %v", err)
		}
		if b.Member != peer.Hello.MemberId || b.Signed.Principal != peer.Principal.String() {
			return status.Errorf(codes.PermissionDenied, "audit events are a member's own (got those of %s, signed by %s)", b.Member, b.Signed.Principal)
		}
		// What is wrong is kept too: it is evidence, and whoever verifies it is told. A root may have gone since it was signed.
		if _, err := b.Verify(roots); err != nil {
			m.Log.Error("audit events are not as a member should sign them", zap.String("member", b.Member), zap.Error(err))
		}
		odd, err := m.Audit.Archive.Append(&b)
		if err != nil {
			return err
		}
		if odd != nil {
			m.Log.Warn("audit events do not follow what was known", zap.Error(odd))
		}
		m.kept(&b)
	}
	return peer.Send(&api.ControlMessage{Message: &api.ControlMessage_AuditAck{AuditAck: &api.AuditAck{Sequence: report.Sequence}}})
}

// kept notes the newest event of a stream, for the store to have soon.
func (m *Members) kept(b *trail.Batch) {
	if m.Audit.Kept != nil {
		m.Audit.Kept(b)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.heads == nil {
		m.heads = map[string]tenantstore.AuditHeadSpec{}
	}
	spec, ok := m.heads[b.Member]
	if !ok {
		spec = tenantstore.AuditHeadSpec{Principal: b.Signed.Principal, Heads: map[string]ledger.Head{}}
		m.heads[b.Member] = spec
	}
	if head := b.Head(); head.Sequence > spec.Heads[b.TenantUID].Sequence {
		spec.Heads[b.TenantUID] = head
	}
}

// KeepHeads notes in the store where the streams of audit events end that are kept here, every few seconds until ctx ends.
func (m *Members) KeepHeads(ctx context.Context) error {
	ticker := time.NewTicker(headInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := m.NoteHeads(ctx); err != nil && ctx.Err() == nil {
			m.Log.Warn("where audit events end is not noted in the store; it is tried again", zap.Error(err))
		}
	}
}

// NoteHeads notes in the store where the streams of audit events end that are kept here.
func (m *Members) NoteHeads(ctx context.Context) error {
	m.mu.Lock()
	heads := m.heads
	m.heads = nil
	m.mu.Unlock()
	if len(heads) == 0 {
		return nil
	}
	err := m.Writer.KeepAuditHeads(ctx, heads)
	if err == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.heads == nil {
		m.heads = map[string]tenantstore.AuditHeadSpec{}
	}
	for member, spec := range heads {
		newer, ok := m.heads[member]
		if !ok {
			m.heads[member] = spec
			continue
		}
		for uid, head := range spec.Heads {
			if head.Sequence > newer.Heads[uid].Sequence {
				newer.Heads[uid] = head
			}
		}
	}
	return err
}
