package cli

import (
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// TestCutOff: what is said of a sidecar that is out of reach is the bound of what was taken away, and what to do where there is
// none.
func TestCutOff(t *testing.T) {
	heard := time.Date(2026, 1, 2, 11, 59, 10, 0, time.UTC)
	at := time.Date(2026, 1, 2, 12, 0, 1, 123e6, time.UTC)
	status := server.Status{Revision: 50, Published: 50, Enforced: 99, Total: 99, At: &at}
	status.Add([]server.Member{{ID: "0123456789ab", Principal: "spiffe://mesh.example/cell/us-1/workload/sidecar-7", Role: "sidecar", OutOfReach: true, Heard: &heard}})
	for _, test := range []struct {
		object string
		action tenantstore.Action
		want   string
	}{
		{"AccessGrant/audit", tenantstore.Removed, "; sidecar-7 (member 0123456789ab) unreachable, lapses by 2026-01-02T12:04:11Z"},
		{"AccessGrant/audit", tenantstore.Created, "; sidecar-7 (member 0123456789ab) unreachable, it keeps what it has until it is back: 'tenantmesh member fence 0123456789ab' has its peers refuse it"},
		{"Revocation/00", tenantstore.Removed, "; sidecar-7 (member 0123456789ab) unreachable, lapses by 2026-01-02T12:15:11Z"},
		{"Tenant/acme", tenantstore.Updated, "; sidecar-7 (member 0123456789ab) unreachable, it keeps what it has until it is back: 'tenantmesh member fence 0123456789ab' has its peers refuse it"},
		{"TokenIssuer/login", tenantstore.Removed, ", 1 out of reach"}, // which no sidecar reads
	} {
		got := enforced(status, cutOff(status, []adminapi.AppliedChange{{Object: test.object, Action: test.action}})...)
		if want := "revision 50: enforced by 99 of 100 sidecars at 12:00:01.123Z" + test.want; got != want {
			t.Errorf("%s of %s:\n%s\nwant\n%s", test.action, test.object, got, want)
		}
	}
}
