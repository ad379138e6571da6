package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Base is where the objects are.
const Base = "/apis/" + tenantstore.APIVersion

// Config says what the API stands on. Status, Explain and Ready come from the rooms that know.
type Config struct {
	Store    tenantstore.Store
	Writer   *tenantstore.Writer
	Roles    Roles // that [Authenticated] gives, to be shown
	Usage    *ledger.Usage
	Status   func(ctx context.Context, revision int64, wait bool) (any, error)
	Explain  func(ctx context.Context, id string) (policy.Decision, error)
	Top      func() []tenantstore.Top                                    // nil: not served
	Shadow   func(ctx context.Context) (tenantstore.ShadowReport, error) // nil: not served
	Uses     func() tenantstore.PolicyUses                               // nil: not served
	Coverage func() tenantstore.Coverage                                 // nil: not served
	// Resources is all that is pushed to a principal, as JSON, with its entity tag; false when it is nobody's, or cannot be
	// said to be new. nil: not served.
	Resources func(principal identity.Principal) (body any, tag string, ok bool)
	Trail     *Trail // nil: not served
	Ready     func() bool
	Version   string
	Log       *zap.Logger
}

// New returns the API. Who calls must have been put into the request's context by [Authenticated] or [ConnContext].
func New(config Config) http.Handler {
	mux := http.NewServeMux()
	settings := huma.DefaultConfig("tenantmesh", config.Version)
	settings.CreateHooks = nil // bodies are as they are written, without a $schema
	settings.DocsPath = ""
	api := humago.New(mux, settings)
	s := &server{config}
	for _, info := range tenantstore.Kinds() {
		s.registerKind(api, info)
	}
	huma.Register(api, operation("apply", http.MethodPost, Base+"/apply", "Write several objects at once, or none"), s.apply)
	huma.Register(api, operation("status", http.MethodGet, "/status", "How far a revision is"), s.status)
	huma.Register(api, operation("explain", http.MethodGet, "/decisions/{id}", "One decision, as it was made"), s.explain)
	huma.Register(api, operation("tenant-config", http.MethodGet, "/tenants/{name}/config", "One tenant's effective configuration"), s.tenantConfig)
	huma.Register(api, operation("tenant-candidates", http.MethodGet, "/tenants/{name}/candidates", "How every cell would do for a tenant"), s.candidates)
	huma.Register(api, operation("place", http.MethodPost, "/tenants/{name}/place", "Place a tenant that has no cell yet"), s.place)
	huma.Register(api, operation("usage", http.MethodGet, "/usage", "What tenants used, by the minute"), s.usage)
	huma.Register(api, operation("top", http.MethodGet, "/top", "Who uses most now, of what the sidecars serve that report here"), s.top)
	huma.Register(api, operation("shadow", http.MethodGet, "/shadow", "What policies that are only watched would have done, by the sidecars that report here"), s.shadow)
	huma.Register(api, operation("coverage", http.MethodGet, "/coverage", "How the tenants of calls were proven, by the sidecars that report here"), s.coverage)
	huma.Register(api, operation("policy-uses", http.MethodGet, "/policy-uses", "Which policies permitted requests, and whose, by the sidecars that report here"), s.policyUses)
	huma.Register(api, operation("slo", http.MethodGet, "/slo", "How well tenants were kept from each other, by tier"), s.slo)
	huma.Register(api, operation("audit", http.MethodGet, "/audit", "Audit events, oldest first"), s.audit)
	huma.Register(api, operation("audit-head", http.MethodGet, "/audit/head", "The end of the chain of audit events, as the store keeps it"), s.auditHead)
	huma.Register(api, operation("sidecar-resources", http.MethodGet, SidecarResources, "All that is pushed to the caller, for when nothing can be pushed"), s.resources)
	huma.Register(api, operation("roles", http.MethodGet, "/roles", "Who holds which role"), s.roles)
	s.registerMoves(api)
	s.registerRollouts(api)
	s.registerGrants(api)
	huma.Register(api, operation("advice", http.MethodGet, "/advice", "What an operator might do about tenants, by the last hour"), s.advice)
	mux.HandleFunc("GET "+Base+"/watch", s.watch)
	s.registerTrail(mux)
	outer := http.NewServeMux()
	outer.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	outer.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !config.Ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	outer.Handle("/", s.guarded(mux))
	return outer
}

// operation leaves the body to this API's own decoder, which names every problem.
func operation(id, method, path, summary string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, MaxBodyBytes: tenantstore.MaxDocument, SkipValidateBody: true}
}

type server struct{ Config }

// fail gives an error its status code.
func fail(err error) error {
	var problems tenantstore.Problems
	var outside tenantstore.OutsideError
	switch {
	case errors.As(err, &problems):
		return huma.Error422UnprocessableEntity(fmt.Sprintf("%d problems; nothing was applied", len(problems)), details(problems)...)
	case errors.As(err, &outside):
		return huma.Error403Forbidden("this is not the caller's to write; nothing was applied", details(outside.Problems)...)
	case errors.Is(err, tenantstore.ErrNotFound):
		return huma.Error404NotFound(err.Error())
	case errors.Is(err, tenantstore.ErrPrecondition):
		return huma.Error412PreconditionFailed(err.Error())
	case errors.Is(err, tenantstore.ErrTooLarge):
		return huma.NewError(http.StatusRequestEntityTooLarge, "too many or too large objects at once, and nothing was applied: apply them in several steps, what others name first")
	case errors.Is(err, tenantstore.ErrConflict):
		return huma.Error409Conflict("the store changes too fast; try again")
	default:
		return huma.Error503ServiceUnavailable("the store did not answer: " + err.Error())
	}
}

func details(problems tenantstore.Problems) []error {
	list := make([]error, len(problems))
	for i, p := range problems {
		list[i] = &huma.ErrorDetail{Message: p.Text, Location: p.Path, Value: p.Object}
	}
	return list
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// body is an answer as it is, with its ETag.
type body struct {
	Status int
	ETag   string `header:"ETag"`
	Body   json.RawMessage
}

func answer(value any, revision int64, ifNoneMatch string) (*body, error) {
	known, err := parseTags("If-None-Match", ifNoneMatch)
	if err != nil {
		return nil, err
	}
	if known.weakly(revision) {
		return &body{Status: http.StatusNotModified, ETag: etag(revision)}, nil
	}
	text, err := json.Marshal(value)
	return &body{Status: http.StatusOK, ETag: etag(revision), Body: text}, err
}

type one struct {
	Name        string `path:"name"`
	IfNoneMatch string `header:"If-None-Match"`
}

type list struct {
	IfNoneMatch string `header:"If-None-Match"`
}

type write struct {
	Name string `path:"name"`
	Conditions
	DryRun  bool   `query:"dryRun"`
	Force   bool   `query:"force" doc:"turn a workload from observe to require whatever its coverage is"`
	RawBody []byte `contentType:"application/json"`
}

type remove struct {
	Name string `path:"name"`
	Conditions
	DryRun bool `query:"dryRun"`
}

// List is several objects of one revision.
type List struct {
	Revision int64                 `json:"revision"`
	Items    []*tenantstore.Object `json:"items"`
}

func (s *server) registerKind(api huma.API, info tenantstore.KindInfo) {
	path := Base + "/" + info.Plural
	huma.Register(api, operation("list-"+info.Plural, http.MethodGet, path, "Every "+string(info.Kind)), func(ctx context.Context, in *list) (*body, error) {
		snapshot, err := s.Store.Snapshot(ctx)
		if err != nil {
			return nil, fail(err)
		}
		all := List{Revision: snapshot.Revision, Items: []*tenantstore.Object{}}
		for key, object := range snapshot.Objects {
			if key.Kind == info.Kind && sees(ctx, object) {
				all.Items = append(all.Items, object)
			}
		}
		slices.SortFunc(all.Items, func(a, b *tenantstore.Object) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
		return answer(all, snapshot.Revision, in.IfNoneMatch)
	})
	huma.Register(api, operation("get-"+info.Plural, http.MethodGet, path+"/{name}", "One "+string(info.Kind)), func(ctx context.Context, in *one) (*body, error) {
		snapshot, err := s.Store.Snapshot(ctx)
		if err != nil {
			return nil, fail(err)
		}
		key := tenantstore.Key{Kind: info.Kind, Name: in.Name}
		object := snapshot.Objects[key]
		if object == nil || !sees(ctx, object) {
			return nil, fail(fmt.Errorf("%v: %w", key, tenantstore.ErrNotFound))
		}
		return answer(object, object.Metadata.Revision, in.IfNoneMatch)
	})
	if !info.Writable {
		return
	}
	put := operation("put-"+info.Plural, http.MethodPut, path+"/{name}", "Write one "+string(info.Kind))
	put.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema(api, info)}}}
	huma.Register(api, put, func(ctx context.Context, in *write) (*body, error) {
		documents, err := tenantstore.DecodeYAML("", bytes.NewReader(in.RawBody))
		if err != nil {
			return nil, fail(err)
		}
		key := tenantstore.Key{Kind: info.Kind, Name: in.Name}
		if len(documents) != 1 || documents[0].Object.Key() != key {
			return nil, fail(tenantstore.Problems{{Object: key.String(), Text: "must be the one object that the path names"}})
		}
		condition, err := in.met()
		if err != nil {
			return nil, err
		}
		options := tenantstore.ApplyOptions{DryRun: in.DryRun, If: map[tenantstore.Key]func(int64) bool{key: condition}, Author: author(ctx), Proven: s.proven(in.Force)}
		result, err := s.Writer.Apply(ctx, actor(ctx), []*tenantstore.Object{documents[0].Object}, options)
		if err != nil {
			return nil, fail(err)
		}
		written := result.Changes[0].Object
		return answer(written, written.Metadata.Revision, "")
	})
	huma.Register(api, operation("delete-"+info.Plural, http.MethodDelete, path+"/{name}", "Delete one "+string(info.Kind)), func(ctx context.Context, in *remove) (*body, error) {
		key := tenantstore.Key{Kind: info.Kind, Name: in.Name}
		condition, err := in.met()
		if err != nil {
			return nil, err
		}
		options := tenantstore.ApplyOptions{DryRun: in.DryRun, If: map[tenantstore.Key]func(int64) bool{key: condition}, Author: author(ctx)}
		result, err := s.Writer.Delete(ctx, actor(ctx), []tenantstore.Key{key}, options)
		if err != nil {
			return nil, fail(err)
		}
		return answer(Applied{Revision: result.Revision}, result.Revision, "")
	})
}

// Applied is what a write of several objects did.
type Applied struct {
	Revision int64           `json:"revision"`
	Changes  []AppliedChange `json:"changes,omitempty"`
}

// AppliedChange is what became of one object.
type AppliedChange struct {
	Object string             `json:"object"` // "Tenant/acme"
	Action tenantstore.Action `json:"action"`
}

type applyInput struct {
	DryRun  bool   `query:"dryRun"`
	Force   bool   `query:"force" doc:"turn a workload from observe to require whatever its coverage is"`
	RawBody []byte `contentType:"application/json"`
}

func (s *server) apply(ctx context.Context, in *applyInput) (*body, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(in.RawBody, &raw); err != nil {
		return nil, huma.Error400BadRequest("the body must be a JSON list of objects: " + err.Error())
	}
	var objects []*tenantstore.Object
	var problems tenantstore.Problems
	for _, text := range raw {
		documents, err := tenantstore.DecodeYAML("", bytes.NewReader(text))
		var found tenantstore.Problems
		if errors.As(err, &found) {
			problems = append(problems, found...)
		} else if err != nil {
			return nil, fail(err)
		}
		for _, d := range documents {
			objects = append(objects, d.Object)
		}
	}
	if len(problems) > 0 {
		return nil, fail(problems)
	}
	return applied(s.Writer.Apply(ctx, actor(ctx), objects, tenantstore.ApplyOptions{DryRun: in.DryRun, Author: author(ctx), Proven: s.proven(in.Force)}))
}

type statusInput struct {
	Revision int64 `query:"revision" doc:"0: the newest"`
	Wait     bool  `query:"wait" doc:"answer once every connected sidecar enforces it or one refused it"`
	Timeout  int   `query:"timeout" doc:"seconds, 1 to 300" default:"30" minimum:"1" maximum:"300"`
}

func (s *server) status(ctx context.Context, in *statusInput) (*body, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(in.Timeout)*time.Second)
	defer cancel()
	status, err := s.Status(ctx, in.Revision, in.Wait)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fail(err)
	}
	text, err := json.Marshal(status)
	if scopeOf(ctx) != nil && err == nil {
		text, err = countsOf(text)
	}
	return &body{Status: http.StatusOK, Body: text}, err
}

type explainInput struct {
	ID string `path:"id"`
}

func (s *server) explain(ctx context.Context, in *explainInput) (*body, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	decision, err := s.Explain(ctx, in.ID)
	if err != nil {
		return nil, huma.Error404NotFound(err.Error())
	}
	if scope := scopeOf(ctx); scope != nil {
		if may, err := s.mayExplain(ctx, scope, &decision); err != nil {
			return nil, err
		} else if !may {
			return nil, huma.Error404NotFound("no decision of this ID is about what is yours")
		}
	}
	text, err := json.Marshal(decision)
	return &body{Status: http.StatusOK, Body: text}, err
}

// TenantConfig is what is enforced for one tenant.
type TenantConfig struct {
	Name      string                 `json:"name"`
	UID       string                 `json:"uid"`
	Tier      string                 `json:"tier"`
	Phase     tenantstore.Phase      `json:"phase"`
	Residency string                 `json:"residency,omitempty"`
	Labels    map[string]string      `json:"labels,omitempty"`
	Placement *tenantstore.Placement `json:"placement,omitempty"`
	Limits    policy.Limits          `json:"limits"`
}

func (s *server) tenantConfig(ctx context.Context, in *one) (*body, error) {
	snapshot, err := s.Store.Snapshot(ctx)
	if err != nil {
		return nil, fail(err)
	}
	tenant := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTenant, Name: in.Name}]
	if tenant == nil || !sees(ctx, tenant) {
		return nil, fail(fmt.Errorf("%v: %w", tenantstore.Key{Kind: tenantstore.KindTenant, Name: in.Name}, tenantstore.ErrNotFound))
	}
	revision := tenant.Metadata.Revision
	if tier := snapshot.Objects[tenantstore.Key{Kind: tenantstore.KindTier, Name: tenant.Tenant.Tier}]; tier != nil {
		revision = max(revision, tier.Metadata.Revision)
	}
	if rollout := tenantstore.RolloutOf(snapshot.Objects, tenantstore.Key{Kind: tenantstore.KindTier, Name: tenant.Tenant.Tier}); rollout != nil {
		revision = max(revision, rollout.Metadata.Revision)
	}
	return answer(TenantConfig{
		Name: in.Name, UID: tenant.Metadata.UID, Tier: tenant.Tenant.Tier, Phase: tenant.Status.Phase, Residency: tenant.Tenant.Residency,
		Labels: tenant.Metadata.Labels, Placement: tenant.Status.Placement,
		Limits: tenantstore.EffectiveLimits(tenantstore.TiersFor(snapshot.Objects, tenantstore.Tiers(snapshot.Objects), tenant), tenant.Tenant),
	}, revision, in.IfNoneMatch)
}

type usageInput struct {
	Tenant string    `query:"tenant"`
	Since  time.Time `query:"since"`
	Until  time.Time `query:"until"`
}

func (s *server) usage(ctx context.Context, in *usageInput) (*body, error) {
	if in.Until.IsZero() {
		in.Until = time.Now().Add(time.Minute)
	}
	records := s.Usage.Sum(in.Tenant, in.Since, in.Until)
	if scope := scopeOf(ctx); scope != nil {
		snapshot, err := s.Store.Snapshot(ctx)
		if err != nil {
			return nil, fail(err)
		}
		records = slices.DeleteFunc(records, func(u ledger.UsageRecord) bool {
			return !isOwn(snapshot.Objects, scope, u.Tenant, u.TenantUID)
		})
	}
	if records == nil {
		records = []ledger.UsageRecord{}
	}
	text, err := json.Marshal(records)
	return &body{Status: http.StatusOK, Body: text}, err
}

type auditInput struct {
	After int64 `query:"after" doc:"sequence of the last event that is known"`
	Limit int   `query:"limit" default:"100" minimum:"1" maximum:"1000"`
}

func (s *server) audit(ctx context.Context, in *auditInput) (*body, error) {
	events, err := s.Store.Events(ctx, in.After, in.Limit)
	if err != nil {
		return nil, fail(err)
	}
	if events == nil {
		events = []ledger.Event{}
	}
	text, err := json.Marshal(events)
	return &body{Status: http.StatusOK, Body: text}, err
}

func (s *server) auditHead(ctx context.Context, _ *struct{}) (*body, error) {
	head, err := s.Store.Head(ctx)
	if err != nil {
		return nil, fail(err)
	}
	text, err := json.Marshal(head)
	return &body{Status: http.StatusOK, Body: text}, err
}

// watch sends every change after a revision as a server-sent event: its ID is the revision, so that a client that
// connects again goes on where it was. A revision that is gone is answered 410.
func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64)
	if err != nil {
		after, err = strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	}
	if err != nil {
		http.Error(w, "after must be a revision", http.StatusBadRequest)
		return
	}
	changes, err := s.Store.Watch(r.Context(), after)
	if errors.Is(err, tenantstore.ErrCompacted) {
		http.Error(w, "the revision is gone: list, and go on from the list's revision", http.StatusGone)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	controller := http.NewResponseController(w)
	_ = controller.Flush()
	for change := range changes {
		if change.Err != nil {
			return
		}
		removed := make([]string, len(change.Delete))
		for i, key := range change.Delete {
			removed[i] = key.String()
		}
		text, err := json.Marshal(struct {
			Put    []*tenantstore.Object `json:"put,omitempty"`
			Delete []string              `json:"delete,omitempty"`
		}{change.Put, removed})
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(w, "id: %d\nevent: change\ndata: %s\n\n", change.Revision, text); err != nil {
			return
		}
		if controller.Flush() != nil {
			return
		}
	}
}
