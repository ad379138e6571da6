package xds

import (
	"runtime"
	"strings"
	"testing"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestAbsent: who is connected nowhere shows, until it leaves or is fenced; who is at another control plane is that one's.
func TestAbsent(t *testing.T) {
	m := newMembers(t)
	for _, o := range []struct {
		id, control  string
		left, fenced bool
	}{
		{id: "1", control: "here"}, {id: "2", control: "gone"}, {id: "3", control: "other"}, {id: "4"},
		{id: "5", control: "gone", left: true}, {id: "6", control: "gone", fenced: true},
	} {
		_, err := m.Writer.PutSystem(t.Context(), "test", []*tenantstore.Object{system(tenantstore.KindMember, "000000000000"+o.id, func(object *tenantstore.Object) {
			object.Member = &tenantstore.MemberSpec{Principal: "spiffe://mesh.test/gateway/edge", Control: o.control, Left: o.left, Fenced: o.fenced}
		})}, nil)
		check(t, err)
	}
	go func() { _ = m.Store.Present(t.Context(), "other") }()
	for live := []string(nil); len(live) == 0; {
		var err error
		live, err = m.Store.Live(t.Context())
		check(t, err)
	}
	want := func(ids ...string) {
		t.Helper()
		absent, err := m.Absent(t.Context())
		check(t, err)
		var got string
		for _, a := range absent {
			got += a.ID[12:]
		}
		if all := strings.Join(ids, ""); got != all {
			t.Errorf("out of reach are %s, want %s", got, all)
		}
	}
	want("1", "2", "4")
	events, err := m.Store.Events(t.Context(), 0, 100)
	check(t, err)
	edge := gatewayPeer(t, "edge", "0000000000002", "127.0.0.1")
	check(t, m.Joined(t.Context(), edge))
	want("1", "4")
	if now, err := m.Store.Events(t.Context(), 0, 100); err != nil || len(now) > len(events)+1 {
		t.Errorf("a member that came back is %d events in the audit, %v", len(now)-len(events), err)
	}
	for range 2 {
		m.Gone(edge)
		want("1", "2", "4")
		check(t, m.Joined(t.Context(), edge))
	}
	// The same while it is followed, and what changes then.
	go func() { _ = m.Follow(t.Context()) }()
	followed := func(good func() bool) {
		t.Helper()
		for {
			m.mu.Lock()
			now := m.follows && good()
			m.mu.Unlock()
			if now {
				return
			}
			if t.Context().Err() != nil {
				t.Fatal("it is not followed")
			}
			runtime.Gosched()
		}
	}
	followed(func() bool { return len(m.known) == 6 })
	want("1", "4")
	_, err = m.Writer.PutSystem(t.Context(), "test", []*tenantstore.Object{system(tenantstore.KindMember, "0000000000007", func(o *tenantstore.Object) {
		o.Member = &tenantstore.MemberSpec{Principal: "spiffe://mesh.test/gateway/edge"}
	})}, nil)
	check(t, err)
	followed(func() bool { return m.known["0000000000007"] != nil })
	want("1", "4", "7")
}
