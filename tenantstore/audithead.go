package tenantstore

import (
	"context"
	"maps"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// AuditHeadSpec is the spec of kind AuditHead, named as its member: the newest audit event of each of its streams that is
// kept. Whoever takes events out of the files cannot take them out of here.
type AuditHeadSpec struct {
	Principal string                 `json:"principal"` // SPIFFE ID of the member
	Heads     map[string]ledger.Head `json:"heads"`     // by the tenant's UID; "": about no tenant
}

// KeepAuditHeads notes the newest events of members that are kept. A head never goes back.
func (w *Writer) KeepAuditHeads(ctx context.Context, heads map[string]AuditHeadSpec) error {
	_, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		for member, spec := range heads {
			o := &Object{APIVersion: APIVersion, Kind: KindAuditHead, Metadata: Metadata{Name: member}, AuditHead: &AuditHeadSpec{Principal: spec.Principal, Heads: map[string]ledger.Head{}}}
			if old := t.objects[o.Key()]; old != nil {
				maps.Copy(o.AuditHead.Heads, old.AuditHead.Heads)
			}
			for uid, head := range spec.Heads {
				if head.Sequence > o.AuditHead.Heads[uid].Sequence {
					o.AuditHead.Heads[uid] = head
				}
			}
			t.put(o)
		}
	})
	return err
}
