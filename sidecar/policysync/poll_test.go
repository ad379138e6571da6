package policysync

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// TestPoll polls a control plane that changes: what is new is taken, what is older or bad is not, and what did not change
// is not sent again, but for the first time of an outage.
func TestPoll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	state, err := Load(path, "me")
	if err != nil {
		t.Fatal(err)
	}
	published, tag, asked := &State{}, `"1"`, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Get("If-None-Match")
		w.Header().Set("ETag", tag)
		switch {
		case published == nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		case asked == tag:
			w.WriteHeader(http.StatusNotModified)
		default:
			_ = json.NewEncoder(w).Encode(published)
		}
	}))
	defer server.Close()
	c, err := New(Config{
		Sets: &policyset.Holder{}, Path: path, Saved: func(*policyset.Set) {}, Log: zap.NewNop(), Poll: Poll{Client: server.Client(), URLs: []string{server.URL}},
	}, state)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(revision, epoch int64, version, limits string) {
		t.Helper()
		body, err := proto.Marshal(&api.TenantPolicy{Tenant: "acme", Uid: "u", Tier: limits, Phase: "Active", Placement: &api.Placement{State: "ACTIVE", Cell: "us-1", Epoch: epoch}})
		if err != nil {
			t.Fatal(err)
		}
		published = &State{Revision: revision, Resources: map[string]map[string]Resource{meshname.TypeTenantPolicy: {"acme": {version, body}}}}
	}
	p := poller{}
	poll := func() {
		p.due = time.Time{}
		c.poll(context.Background(), &p)
	}
	want := func(what, tier string, tags string) {
		t.Helper()
		poll()
		if got, ok := c.Sets.Load().Tenant("acme"); !ok || got.Tier != tier || asked != tags {
			t.Errorf("%s: %+v, %v; asked with %s, want tier %s and %s", what, got, ok, asked, tier, tags)
		}
	}
	publish(5, 3, "a", "gold")
	want("the first time", "gold", "")
	want("nothing new", "gold", `"1"`)
	publish(6, 3, "b", "silver")
	tag = `"2"`
	want("something new", "silver", `"1"`)
	publish(7, 2, "c", "bronze")
	tag = `"3"`
	want("an epoch that goes back", "silver", `"2"`)
	publish(4, 3, "d", "bronze")
	tag = `"4"`
	want("an older revision", "silver", `"3"`)
	published = nil
	want("nothing to be had", "silver", "")
	if p.wait != 4*minPoll || time.Until(p.due) <= 0 {
		t.Errorf("after two failures it waits %v, until %v", p.wait, p.due)
	}
	before := p.due
	if c.poll(context.Background(), &p); p.due != before {
		t.Error("it is asked before it is due")
	}
	published = &State{Revision: 8, Resources: map[string]map[string]Resource{"other": {}}}
	poll()
	if _, ok := c.Sets.Load().Tenant("acme"); ok {
		t.Error("a tenant that is not published any more is there")
	}
	if again, err := Load(path, "me"); err != nil || again.Revision != 7 && again.Revision != 8 || len(again.Resources[meshname.TypeTenantPolicy]) != 0 {
		t.Errorf("on the disk: %+v, %v", again, err)
	}
	if age := c.Sets.Age(time.Now()); age > time.Minute {
		t.Errorf("what was polled just now is %v old", age)
	}
}
