package tenantstore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// GrantState is who asked for a grant, and who approved it: as they were known to the control plane, whatever the grant says.
type GrantState struct {
	Requester  string    `json:"requester"` // a SPIFFE ID, or "uid:<n>"
	Requested  time.Time `json:"requested"`
	Approver   string    `json:"approver,omitempty"` // "": nobody yet
	ApprovedAt time.Time `json:"approvedAt,omitzero"`
}

// GrantInForce reports whether a grant grants anything, until it ends: somebody other than who asked has approved it, or it is a
// break-glass one.
func GrantInForce(o *Object) bool {
	state := o.Status.Grant
	return state != nil && (state.Approver != "" || o.AccessGrant.BreakGlass)
}

// BreakGlass reports whether a grant is in force that nobody but who asked has looked at.
func BreakGlass(o *Object, now time.Time) bool {
	return o.Kind == KindAccessGrant && GrantInForce(o) && o.Status.Grant.Approver == "" && now.Before(o.AccessGrant.NotAfter)
}

// ask notes who asks for the grants that are new, or another than they were: what was approved is not this any more.
func (t *draft) ask(actor string, now time.Time) {
	for _, c := range t.changes {
		if c.Key.Kind != KindAccessGrant || c.Action != Created && c.Action != Updated {
			continue
		}
		old := t.before(c.Key)
		if old != nil && old.Status.Grant != nil && reflect.DeepEqual(old.AccessGrant, c.Object.AccessGrant) {
			continue // its labels
		}
		if c.Object.AccessGrant.BreakGlass {
			if most := now.Add(policy.MaxBreakGlass); c.Object.AccessGrant.NotAfter.After(most) {
				t.problem(c.Key, "spec.notAfter", "must be within %v of now for a grant with breakGlass (got %v)", policy.MaxBreakGlass, c.Object.AccessGrant.NotAfter.UTC().Format(time.RFC3339))
			}
			t.details[c.Key] = "BREAK GLASS: in force without anybody's approval"
		}
		asked := c.Object.Clone()
		asked.Status.Grant = &GrantState{Requester: actor, Requested: now.UTC().Round(0)}
		t.replace(asked)
	}
}

func (t *draft) problem(key Key, path, format string, args ...any) {
	var found Problems
	if t.err != nil && !errors.As(t.err, &found) {
		return // there is a graver one
	}
	t.err = append(found, Problem{Object: key.String(), Path: path, Text: fmt.Sprintf(format, args...)})
}

// ApproveGrant puts a grant in force that another has asked for. at is the revision of the grant that was looked at; 0: any.
func (w *Writer) ApproveGrant(ctx context.Context, actor, name string, at int64) (*Object, error) {
	var approved *Object
	_, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		key, now := Key{KindAccessGrant, name}, w.now()
		grant := t.objects[key]
		switch {
		case grant == nil:
			t.err = fmt.Errorf("%v: %w", key, ErrNotFound)
			return
		case at != 0 && at != grant.Metadata.Revision:
			t.err = fmt.Errorf("%v is at revision %d, not %d: %w", key, grant.Metadata.Revision, at, ErrPrecondition)
			return
		case actor == "":
			t.problem(key, "status.grant.approver", "must be a caller that is known")
		case grant.Status.Grant == nil:
			t.problem(key, "status.grant", "must be there: whoever asks for the grant must apply it again, it is from before grants were approved")
		case grant.Status.Grant.Requester == actor:
			t.problem(key, "status.grant.approver", "must be another than who asked for it (got %q)", actor)
		case grant.AccessGrant.Principal == actor:
			t.problem(key, "status.grant.approver", "must be another than the principal (got %q)", actor)
		case grant.AccessGrant.Approver != "" && grant.AccessGrant.Approver != actor:
			t.problem(key, "status.grant.approver", "must be the one that the grant names, %s (got %q)", grant.AccessGrant.Approver, actor)
		case !now.Before(grant.AccessGrant.NotAfter):
			t.problem(key, "spec.notAfter", "must not have passed (got %v)", grant.AccessGrant.NotAfter.UTC().Format(time.RFC3339))
		}
		if t.err != nil {
			return
		}
		approved = grant.Clone()
		if approved.Status.Grant.Approver != "" {
			return
		}
		approved.Status.Grant.Approver, approved.Status.Grant.ApprovedAt = actor, now.UTC().Round(0)
		t.details[key] = "approved"
		t.replace(approved)
		t.audit(actor, now)
	})
	return approved, err
}
