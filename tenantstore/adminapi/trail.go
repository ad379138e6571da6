package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Trail is the evidence that is kept here.
type Trail struct {
	Archive *trail.Archive
	Roots   *trail.Roots
	Signer  trail.Signer                    // of exports
	Note    func(ctx context.Context) error // has the store know where the streams end
}

// NoTenant is what stands for the events of no tenant, where a tenant is asked for.
const NoTenant = "-"

// registerTrail serves the trails of tenants. Who may read is decided as for every other path.
func (s *server) registerTrail(mux *http.ServeMux) {
	if s.Trail == nil {
		return
	}
	mux.HandleFunc("GET /audit/trail", func(w http.ResponseWriter, r *http.Request) {
		since, err := parseSince(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/jsonl")
		w.Header().Set("Cache-Control", "no-store")
		switch err := s.export(w, r, since); {
		case errors.Is(err, tenantstore.ErrNotFound):
			http.Error(w, err.Error(), http.StatusNotFound)
		case err != nil: // a line of it may be out: what is missing then is found by whoever verifies it
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /audit/crossings", func(w http.ResponseWriter, r *http.Request) {
		since, err := parseSince(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		refused, err := s.outOf(r.Context(), r.URL.Query().Get("tenant"), since)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(refused)
	})
	mux.HandleFunc("GET /audit/tenants", func(w http.ResponseWriter, _ *http.Request) {
		uids, err := s.Trail.Archive.Tenants()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(uids)
	})
}

func parseSince(r *http.Request) (since time.Time, err error) {
	if text := r.URL.Query().Get("since"); text != "" {
		if since, err = time.Parse(time.RFC3339, text); err != nil {
			return since, fmt.Errorf("since must be a time as RFC 3339 has it (got %q)", text)
		}
	}
	return since, nil
}

// export writes the trail of the tenant that is asked for, by its name, or by the UID of an incarnation that is gone.
func (s *server) export(w http.ResponseWriter, r *http.Request, since time.Time) error {
	ctx, name, uid := r.Context(), r.URL.Query().Get("tenant"), r.URL.Query().Get("uid")
	if err := s.Trail.Note(ctx); err != nil {
		return err
	}
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return err
	}
	if name == NoTenant {
		name = ""
	} else if tenant := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: name}]; tenant != nil && uid == "" {
		uid = tenant.Metadata.UID
	} else if uid == "" || !s.Trail.Archive.Known(uid) {
		return fmt.Errorf("tenant %q, uid %q: %w", name, uid, tenantstore.ErrNotFound)
	}
	e := trail.Export{Tenant: name, TenantUID: uid, Since: since, Heads: map[string]trail.Newest{}, Bundle: s.Trail.Roots.PEM()}
	for key, o := range snapshot.Objects {
		if key.Kind != tenantstore.KindAuditHead {
			continue
		}
		if head, ok := o.AuditHead.Heads[uid]; ok {
			e.Heads[key.Name] = trail.Newest{Head: head, Principal: o.AuditHead.Principal}
		}
	}
	if e.Chain, err = s.Store.Head(ctx); err != nil {
		return err
	}
	var lines []trail.Line
	if name != "" {
		if lines, err = s.about(ctx, name, uid, since); err != nil {
			return err
		}
	}
	return trail.Write(w, e, after(s.Trail.Archive.Batches(uid), since), lines, time.Now(), s.Trail.Signer)
}

// after leaves out batches that were signed before a time. Their events are older than that.
func after(batches iter.Seq2[trail.Batch, error], since time.Time) iter.Seq2[trail.Batch, error] {
	return func(yield func(trail.Batch, error) bool) {
		for b, err := range batches {
			if err == nil && b.Signed.Time.Before(since) {
				continue
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// about are the administrative events about a tenant's incarnation, each without what it says of others.
func (s *server) about(ctx context.Context, name, uid string, since time.Time) (lines []trail.Line, err error) {
	for last := int64(0); ; {
		events, err := s.Store.Events(ctx, last, 1000)
		if err != nil || len(events) == 0 {
			return lines, err
		}
		for _, event := range events {
			last = event.Sequence
			if event.Time.Before(since) {
				continue
			}
			if line, ok := own(event, name, uid); ok {
				lines = append(lines, line)
			}
		}
	}
}

// object is what is read of an object in an administrative event.
type object struct {
	Metadata struct {
		UID string `json:"uid"`
	} `json:"metadata"`
	Spec struct {
		UID     string                `json:"uid"`
		Tenants policy.TenantSelector `json:"tenants"`
	} `json:"spec"`
}

// own is an administrative event as the tenant may see it; false when it is not about the tenant.
func own(event ledger.Event, name, uid string) (trail.Line, bool) {
	kind, of, _ := strings.Cut(event.Object, "/")
	var states []object
	for _, text := range []json.RawMessage{event.Before, event.After} {
		var o object
		if text != nil && json.Unmarshal(text, &o) == nil {
			states = append(states, o)
		}
	}
	redacted := false
	switch tenantstore.Kind(kind) {
	case tenantstore.KindTenant:
		if of != name || !slices.ContainsFunc(states, func(o object) bool { return o.Metadata.UID == uid }) {
			return trail.Line{}, false
		}
	case tenantstore.KindMove:
		if of != name || !slices.ContainsFunc(states, func(o object) bool { return o.Spec.UID == uid }) {
			return trail.Line{}, false
		}
	case tenantstore.KindAccessGrant, tenantstore.KindAccessPolicy:
		concerns := slices.ContainsFunc(states, func(o object) bool {
			return len(o.Spec.Tenants.Names) == 0 || slices.Contains(o.Spec.Tenants.Names, name)
		})
		if !concerns {
			return trail.Line{}, false
		}
		redacted = slices.ContainsFunc(states, func(o object) bool { return !slices.Equal(o.Spec.Tenants.Names, []string{name}) })
	default:
		return trail.Line{}, false
	}
	if redacted { // its name, too, may be of several
		event.Before, event.After, event.Detail, event.Object = nil, nil, "", kind+"/(of several tenants)"
	}
	text, err := json.Marshal(event)
	return trail.Line{Event: text, Redacted: redacted}, err == nil
}

// outOf are the refusals of a tenant's own principals, those of workloads that are bound to it, at what is not the tenant's.
// Whose it is is not said.
func (s *server) outOf(ctx context.Context, name string, since time.Time) ([]trail.Refused, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	tenant := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: name}]
	uids, err := s.Trail.Archive.Tenants()
	if err != nil || tenant == nil {
		return []trail.Refused{}, err
	}
	var events []trail.Event
	for _, uid := range uids {
		if uid == tenant.Metadata.UID {
			continue
		}
		for b, err := range after(s.Trail.Archive.Batches(uid), since) {
			if err != nil {
				return nil, err
			}
			for _, sealed := range b.Events {
				var e trail.Event
				if json.Unmarshal(sealed.Event, &e) == nil && e.Kind == trail.Decision && boundTo(snapshot.Objects, e.Principal, name) {
					e.Suppressed, e.Workload = 0, "" // whose these were is not known; where it is is not said
					events = append(events, e)
				}
			}
		}
	}
	return trail.Crossings(events), nil
}

// boundTo reports whether a principal is that of a workload that is bound to the tenant.
func boundTo(objects map[tenantstore.Key]*tenantstore.Object, principal, tenant string) bool {
	for key, o := range objects {
		if key.Kind != tenantstore.KindWorkload || o.Workload.BoundTenant != tenant {
			continue
		}
		if strings.HasSuffix(principal, "/workload/"+key.Name) || slices.ContainsFunc(o.Workload.SPIFFEIDs, func(id tenantstore.WorkloadIdentity) bool { return id.ID == principal }) {
			return true
		}
	}
	return false
}
