package dedupe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/propagation/dedupe/storetest"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
)

type keys struct{ set tenanttoken.KeySet }

func (k keys) Keys(context.Context, bool) (string, tenanttoken.KeySet, error) {
	return "mesh.example", k.set, nil
}

// contextOf is that of a request for a tenant, as a signed context says.
func contextOf(t *testing.T, tenant string) context.Context {
	t.Helper()
	key, err := tenanttoken.NewSigningKey(time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	principal, err := identity.ParsePrincipal("spiffe://mesh.example/gateway/edge")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := tenanttoken.NewSigner(key, principal)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.ParseTenantID(tenant)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signer.Sign(tenanttoken.Claims{
		Audience: "mesh.example", IssuedAt: time.Now(), Expiry: time.Now().Add(time.Minute), Txn: "txn",
		Context: tenanttoken.Context{Tenant: id, UID: "uid-" + tenant, Tier: "gold", Cell: "us-1", Epoch: 1, Role: tenanttoken.Owner, Purpose: tenanttoken.Request},
	})
	if err != nil {
		t.Fatal(err)
	}
	set := tenanttoken.NewKeySet(tenanttoken.Key{KID: key.KID, Principal: principal, Public: key.Public(), Scope: tenanttoken.Scope{Gateway: true}, NotAfter: key.NotAfter})
	ctx, err := propagation.NewVerifier(keys{set}).Verify(t.Context(), []string{text})
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// TestDo: an event is handled once for each tenant, by one of many that get it at once, and again when it failed or is forgotten.
func TestDo(t *testing.T) {
	store, now := NewMemory(0), time.Now()
	store.now = func() time.Time { return now }
	d := &Deduper{Store: store}
	acme, globex := contextOf(t, "acme"), contextOf(t, "globex")
	var handled atomic.Int64
	handle := func(ctx context.Context) error {
		handled.Add(1)
		return ctx.Err()
	}
	var group sync.WaitGroup
	for range 100 {
		for _, ctx := range []context.Context{acme, globex} {
			group.Go(func() {
				if _, err := d.Do(ctx, "order-1", handle); err != nil {
					t.Error(err)
				}
			})
		}
	}
	group.Wait()
	if n := handled.Load(); n != 2 {
		t.Errorf("one event of two tenants was handled %d times", n)
	}
	broken := errors.New("broken")
	if did, err := d.Do(acme, "order-2", func(context.Context) error { return broken }); !did || !errors.Is(err, broken) {
		t.Errorf("%v, %v", did, err)
	}
	if did, err := d.Do(acme, "order-2", handle); !did || err != nil {
		t.Errorf("what failed is not handled again: %v, %v", did, err)
	}
	now = now.Add(Time - time.Second)
	if did, _ := d.Do(acme, "order-1", handle); did {
		t.Error("it is handled again within seven days")
	}
	now = now.Add(2 * time.Second)
	if did, _ := d.Do(acme, "order-1", handle); !did {
		t.Error("it is remembered for ever")
	}
	if _, err := d.Do(t.Context(), "order-1", handle); !errors.Is(err, propagation.ErrMissing) {
		t.Errorf("for no tenant: %v", err)
	}
	if _, err := d.Do(acme, "", handle); !errors.Is(err, ErrNoEvent) {
		t.Errorf("without an ID: %v", err)
	}
}

// TestKeysAreApart: no two pairs of a tenant and an event are one key.
func TestKeysAreApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 6, 12)
		a, b, c, d := text.Draw(t, "a"), text.Draw(t, "b"), text.Draw(t, "c"), text.Draw(t, "d")
		if (Key(a, b) == Key(c, d)) != (a == c && b == d) {
			t.Errorf("%q %q and %q %q", a, b, c, d)
		}
	})
	if Key("ab", "c") == Key("a", "bc") {
		t.Error("where one ends is not told")
	}
}

// TestMemory: it keeps the contract of stores.
func TestMemory(t *testing.T) {
	storetest.Run(t, NewMemory(0))
}

// TestBound: a store that is full forgets what is nearest to its end first, or nearly so.
func TestBound(t *testing.T) {
	m := NewMemory(100)
	for i := range 1000 {
		if first, err := m.PutIfAbsent(t.Context(), fmt.Sprint(i), time.Duration(1+i)*time.Minute); !first || err != nil {
			t.Fatal(first, err)
		}
	}
	if len(m.until) != 100 {
		t.Errorf("%d keys", len(m.until))
	}
	if first, _ := m.PutIfAbsent(t.Context(), "999", time.Minute); first {
		t.Error("the newest is forgotten")
	}
}
