package feature

import (
	"net/url"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/meshtest"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestFencedMember: an instance that an operator shut out is refused by its peers, whatever it still holds: its SPIFFE ID
// is good, its certificate is not any more.
func TestFencedMember(t *testing.T) {
	w := newWorld(t)
	want(t, "before", w.call(t, "acme", "http://back/", "txn-token"), 200, "")
	done := make(chan meshtest.Response)
	go func() {
		done <- w.Get(t, w.gateway.URL+"/front/call?"+url.Values{"to": {"http://back/"}, "forward": {"txn-token"}, "gate": {""}}.Encode(), "acme")
	}()
	<-w.gate
	snapshot, err := w.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fenced := ""
	for key, o := range snapshot.Objects {
		if key.Kind == tenantstore.KindMember && o.Member.Workload == "front" {
			if fenced = key.Name; len(o.Member.Certificates) != 1 {
				t.Errorf("its certificates are %+v", o.Member.Certificates)
			}
		}
	}
	applied, err := w.Admin.FenceMember(t.Context(), fenced)
	if err != nil {
		t.Fatal(err)
	}
	served := w.served.Load()
	until(t, func() bool {
		status, err := w.Admin.Status(t.Context(), applied.Revision, false, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range status.Members {
			if m.Workload == "back" {
				return m.Enforced
			}
		}
		return false
	})
	w.gate <- struct{}{}
	answer := <-done
	want(t, "of an instance that was shut out", answer, 401, "unauthenticated_peer")
	if now := w.served.Load(); now != served {
		t.Errorf("back served %d of its calls", now-served)
	}
	decision, err := w.Admin.Explain(t.Context(), answer.Header.Get("x-tenantmesh-decision"))
	if err != nil || decision.Detail != "the peer is an instance that an operator shut out" {
		t.Errorf("explained as %q, %v", decision.Detail, err)
	}
}
