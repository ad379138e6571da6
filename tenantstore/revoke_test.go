package tenantstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// TestRevokeToken: a revocation is kept as long as a context may live, is bounded in number, and who made it is known.
func TestRevokeToken(t *testing.T) {
	store := memstore.New()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w := tenantstore.NewWriter(store, func() time.Time { return now })
	txn := func(i int) string { return fmt.Sprintf("%032x", i) }
	count := func() (n int) {
		t.Helper()
		snapshot, err := store.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for key := range snapshot.Objects {
			if key.Kind == tenantstore.KindRevocation {
				n++
			}
		}
		return n
	}
	for i := range tenantstore.MaxRevocations {
		if _, err := w.RevokeToken(t.Context(), "eve", txn(i), "stolen"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			now = now.Add(time.Minute)
		}
	}
	var problems tenantstore.Problems
	if _, err := w.RevokeToken(t.Context(), "eve", txn(-1), ""); !errors.As(err, &problems) {
		t.Errorf("no transaction: %v", err)
	}
	if _, err := w.RevokeToken(t.Context(), "eve", txn(9999), ""); !errors.As(err, &problems) || !strings.Contains(err.Error(), "suspend the tenant") {
		t.Errorf("one too many: %v", err)
	}
	if _, err := w.RevokeToken(t.Context(), "eve", txn(5), "again"); err != nil {
		t.Errorf("one that is revoked, again: %v", err)
	}
	now = now.Add(meshname.ContextTime - time.Minute) // the first has ended
	if _, err := w.RevokeToken(t.Context(), "eve", txn(9999), ""); err != nil || count() != tenantstore.MaxRevocations {
		t.Errorf("in the place of one that ended: %v, %d", err, count())
	}
	now = now.Add(time.Minute)
	if err := w.ForgetRevocations(t.Context()); err != nil || count() != 1 {
		t.Errorf("%v, %d are left, want the newest", err, count())
	}
	events, err := store.Events(t.Context(), 0, 1)
	if err != nil || len(events) != 1 || events[0].Actor != "eve" || events[0].Object != "Revocation/"+txn(0) || !strings.Contains(string(events[0].After), "stolen") {
		t.Errorf("the audit says %+v, %v", events, err)
	}
}
