package report

import (
	"testing"
	"time"

	"go.uber.org/zap"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// kid is the key that a reporter signs with, "" for none.
func kid(t *testing.T, r *Reporter, now time.Time) string {
	t.Helper()
	signer := r.Signer()
	if signer == nil {
		return ""
	}
	acme, err := identity.ParseTenantID("acme")
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign(tenanttoken.Claims{Audience: "mesh.example", IssuedAt: now, Expiry: now.Add(5 * time.Minute), Txn: "t", Context: tenanttoken.Context{
		Tenant: acme, UID: "u", Cell: "c", Epoch: 1, Role: tenanttoken.Owner, Purpose: tenanttoken.Request,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []tenanttoken.SigningKey{r.current, r.next} {
		if key.KID == "" {
			continue
		}
		set := tenanttoken.NewKeySet(tenanttoken.Key{KID: key.KID, Principal: r.Principal, Public: key.Public(), Scope: tenanttoken.Scope{Gateway: true}, NotAfter: key.NotAfter})
		if _, err := tenanttoken.NewVerifier(tenanttoken.Options{Audience: "mesh.example"}).Verify(token, set, now); err == nil {
			return key.KID
		}
	}
	t.Fatal("the token is signed by no key of the reporter's")
	return ""
}

// TestRotation: a key signs once it is in force, until the next one is; and a restart at any point goes on where it was.
func TestRotation(t *testing.T) {
	gateway, err := identity.GatewayID("mesh.example", "edge")
	if err != nil {
		t.Fatal(err)
	}
	config := Config{Principal: gateway, Dir: t.TempDir()}
	open := func(now time.Time) *Reporter {
		t.Helper()
		r, err := New(config, func() bool { return true }, now)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	in := func(r *Reporter, kid string) {
		t.Helper()
		if err := r.keyInForce(kid); err != nil {
			t.Fatal(err)
		}
	}
	r := open(start)
	first := r.next.KID
	if kid(t, r, start) != "" || first == "" {
		t.Fatalf("before its key is in force it signs with %q", kid(t, r, start))
	}
	r = open(start)
	if r.next.KID != first {
		t.Error("a restart makes another key before the first was in force")
	}
	in(r, "another")
	if kid(t, r, start) != "" {
		t.Error("another's key in force puts this one in force")
	}
	in(r, first)
	if kid(t, r, start) != first {
		t.Error("the key in force does not sign")
	}
	r = open(start.Add(time.Hour))
	if kid(t, r, start.Add(time.Hour)) != first || r.next.KID != "" {
		t.Errorf("after a restart it signs with %q and has %q coming", kid(t, r, start.Add(time.Hour)), r.next.KID)
	}
	old := start.Add(25 * time.Hour)
	if err := r.look(old); err != nil {
		t.Fatal(err)
	}
	second := r.next.KID
	if second == "" || second == first || kid(t, r, old) != first {
		t.Errorf("when the key ages %q is coming, and %q signs", second, kid(t, r, old))
	}
	r = open(old)
	if r.next.KID != second || kid(t, r, old) != first {
		t.Errorf("after a restart in between %q is coming, and %q signs", r.next.KID, kid(t, r, old))
	}
	outage := start.Add(6 * 24 * time.Hour)
	if r = open(outage); kid(t, r, outage) != first || r.next.KID == "" {
		t.Errorf("after five days without the control plane %q signs, and %q is coming", kid(t, r, outage), r.next.KID)
	}
	second = r.next.KID
	in(r, second)
	if kid(t, r, old) != second {
		t.Error("the second key is in force and does not sign")
	}
	if r = open(start.Add(14 * 24 * time.Hour)); r.Signer() != nil || r.next.KID == "" {
		t.Error("a key that ended is in force after a restart")
	}
}

// TestClockThatWentBack: a batch is numbered after the last that the control plane counted, whatever the clock says.
func TestClockThatWentBack(t *testing.T) {
	gateway, err := identity.GatewayID("mesh.example", "edge")
	if err != nil {
		t.Fatal(err)
	}
	meter := ledger.NewMeter()
	r, err := New(Config{Principal: gateway, Dir: t.TempDir(), Meter: meter, Zap: zap.NewNop()}, func() bool { return true }, start)
	if err != nil {
		t.Fatal(err)
	}
	meter.Add(ledger.UsageRecord{Minute: start, Requests: 1}, nil)
	if err := r.sendUsage(nil); err != nil || r.batch != nil {
		t.Errorf("before it is welcome it sends %v, %v", r.batch, err)
	}
	counted := start.Add(time.Hour).UnixMicro()
	if err := r.heard(nil, &api.ControlMessage{Message: &api.ControlMessage_Welcome{Welcome: &api.Welcome{UsageSequence: counted}}}); err != nil {
		t.Fatal(err)
	}
	if r.sequence < counted {
		t.Errorf("its next batch comes after %d, and %d was counted", r.sequence, counted)
	}
}
