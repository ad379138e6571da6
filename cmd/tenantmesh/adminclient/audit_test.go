package adminclient

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// forged is a store whose events somebody altered.
type forged struct {
	*memstore.Store
	alter func([]ledger.Event) []ledger.Event
}

func (f forged) Events(ctx context.Context, after int64, limit int) ([]ledger.Event, error) {
	all, err := f.Store.Events(ctx, 0, 1<<20)
	all = f.alter(all)
	for len(all) > 0 && all[0].Sequence <= after {
		all = all[1:]
	}
	return all[:min(limit, len(all))], err
}

// TestAudit: whatever is altered in a chain of several pages shows.
func TestAudit(t *testing.T) {
	const n = 1100 // over one page
	store := memstore.New()
	cells := make([]*tenantstore.Object, n)
	for i := range cells {
		cells[i] = &tenantstore.Object{Kind: tenantstore.KindCell, Metadata: tenantstore.Metadata{Name: fmt.Sprintf("cell-%d", i)}, Cell: &tenantstore.CellSpec{Region: "us"}}
	}
	if _, err := tenantstore.NewWriter(store, time.Now).Apply(t.Context(), "test", cells, tenantstore.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		alter func([]ledger.Event) []ledger.Event
		want  string
	}{
		"whole":           {func(e []ledger.Event) []ledger.Event { return e }, ""},
		"without its end": {func(e []ledger.Event) []ledger.Event { return e[:n-3] }, "ends with event 1097, and the store knows of 1100"},
		"with a gap":      {func(e []ledger.Event) []ledger.Event { return append(e[:1050], e[1051:]...) }, "event 1052 does not follow event 1050"},
		"without any":     {func([]ledger.Event) []ledger.Event { return nil }, "ends with event 0"},
		"changed":         {func(e []ledger.Event) []ledger.Event { e[3].Actor = "nobody"; return e }, "event 4 does not follow"},
		"written anew": {func(e []ledger.Event) []ledger.Event {
			var head ledger.Head
			for i := range e {
				e[i].Actor = "nobody"
				e[i], head = head.Seal(e[i])
			}
			return e
		}, "written anew"},
	} {
		socket := filepath.Join(t.TempDir(), "s")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		web := &http.Server{ConnContext: adminapi.ConnContext, Handler: adminapi.New(adminapi.Config{Store: forged{store, test.alter}, Ready: func() bool { return true }, Log: zap.NewNop()})}
		go func() { _ = web.Serve(listener) }()
		shown := 0
		broken, err := New(socket).Audit(t.Context(), func(ledger.Event) { shown++ })
		if err != nil {
			t.Fatal(err)
		}
		if (broken == nil) != (test.want == "") || broken != nil && !strings.Contains(broken.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, broken, test.want)
		}
		if events, _ := (forged{store, test.alter}).Events(t.Context(), 0, 1<<20); shown != len(events) {
			t.Errorf("%s: %d events are shown, want %d", name, shown, len(events))
		}
		_ = web.Close()
	}
}
