package xds

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/xds/ir"
	"github.com/tenantmesh/tenantmesh/xds/server"
	"github.com/tenantmesh/tenantmesh/xds/translator"
)

// How long a change waits for others: at least holdOff after the last one, at most maxHoldOff after the first.
// Suspension and revocation do not wait.
const (
	holdOff    = 50 * time.Millisecond
	maxHoldOff = 500 * time.Millisecond
)

// PublisherConfig says what a publisher stands on.
type PublisherConfig struct {
	Store       tenantstore.Store
	Writer      *tenantstore.Writer
	Cache       *server.Cache
	TrustDomain string
	KeySources  KeySources // of issuers that name a URI
	// Change changes what is pushed: for tests that show what a part of it is for. nil: nothing is changed.
	Change func(translator.Resource) translator.Resource
	Log    *zap.Logger
}

// Publisher turns changes of the store into resources in the cache.
type Publisher struct {
	PublisherConfig
	directory atomic.Pointer[directory]
	keys      *keyFetcher

	// Owned by Run.
	objects map[tenantstore.Key]*tenantstore.Object
	tiers   map[string]policy.TierSpec
	shared  map[server.Key]struct{} // published, but for tenants
	tenants map[string][]server.Key // published, by tenant
}

// NewPublisher returns a publisher; Run makes it work.
func NewPublisher(config PublisherConfig) *Publisher {
	p := &Publisher{PublisherConfig: config, shared: map[server.Key]struct{}{}, tenants: map[string][]server.Key{}}
	p.keys = newKeyFetcher(config.KeySources, config.Writer, config.Log)
	p.directory.Store(&directory{changed: make(chan struct{})})
	return p
}

// Lookup implements [server.Directory]: a gateway by the scheme of its SPIFFE ID, a workload by being listed.
func (p *Publisher) Lookup(principal identity.Principal) (server.Subject, bool) {
	if identity.IsGateway(principal) && principal.TrustDomain() == p.TrustDomain {
		return server.Subject{Role: string(tenantstore.RoleGateway), Audiences: []string{translator.AudienceAll, translator.AudienceGateway}}, true
	}
	subject, ok := p.directory.Load().subjects[principal]
	return subject, ok
}

// Changed implements [server.Directory].
func (p *Publisher) Changed() <-chan struct{} { return p.directory.Load().changed }

// directory is who is in the mesh, but for gateways, until changed is closed.
type directory struct {
	subjects map[identity.Principal]server.Subject
	changed  chan struct{}
}

// Run publishes until ctx ends. ready is called after the first time.
func (p *Publisher) Run(ctx context.Context, ready func()) error {
	defer p.keys.stop()
	for first := true; ; first = false {
		snapshot, err := p.Store.Snapshot(ctx)
		if err != nil {
			return err
		}
		changes, err := p.Store.Watch(ctx, snapshot.Revision)
		if err != nil {
			return err
		}
		p.objects = snapshot.Objects
		if err := p.publishAll(snapshot.Revision); err != nil {
			return err
		}
		if first {
			ready()
		}
		err = p.follow(ctx, snapshot.Revision, changes)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, tenantstore.ErrCompacted) {
			return err
		}
		p.Log.Info("the store compacted what was not seen yet; starting from a snapshot")
	}
}

// follow applies changes in batches until the watch ends.
func (p *Publisher) follow(ctx context.Context, revision tenantstore.Revision, changes <-chan tenantstore.Change) error {
	batch := newBatch()
	var wait, limit <-chan time.Time
	flush := func() error {
		wait, limit = nil, nil
		done := batch
		batch = newBatch()
		return p.publish(revision, done)
	}
	for {
		select {
		case change, ok := <-changes:
			if !ok {
				return errors.New("the store's watch ended")
			}
			if change.Err != nil {
				return change.Err
			}
			revision = change.Revision
			urgent := p.note(batch, change)
			if limit == nil {
				limit = time.After(maxHoldOff)
			}
			wait = time.After(holdOff)
			if urgent.any() {
				if err := p.publishUrgent(revision, urgent, batch); err != nil {
					return err
				}
				if err := flush(); err != nil {
					return err
				}
			}
		case <-p.keys.changed:
			keys := newBatch()
			keys.shared, batch.shared = true, true
			if err := p.publishUrgent(revision, urgentBatch{batch: keys}, batch); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
		case <-wait:
			if err := flush(); err != nil {
				return err
			}
		case <-limit:
			if err := flush(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// batch is what changed since the last time something was published.
type batch struct {
	tenants map[string]struct{}
	tiers   map[string]struct{} // every tenant of them
	all     bool                // every tenant
	shared  bool                // anything else

	put    []server.Resource // made already
	remove []server.Key
}

func newBatch() *batch { return &batch{tenants: map[string]struct{}{}, tiers: map[string]struct{}{}} }

// touch notes that an object changed.
func (b *batch) touch(key tenantstore.Key) {
	switch key.Kind {
	case tenantstore.KindTenant:
		b.tenants[key.Name] = struct{}{}
	case tenantstore.KindTier:
		b.tiers[key.Name] = struct{}{}
	case tenantstore.KindRollout:
		if tier, ok := strings.CutPrefix(key.Name, tenantstore.RolloutKey(tenantstore.Key{Kind: tenantstore.KindTier}).Name); ok {
			b.tiers[tier] = struct{}{}
		} else {
			b.shared = true
		}
	case tenantstore.KindMove, tenantstore.KindPosition, tenantstore.KindAuditHead, tenantstore.KindTierPromotion, tenantstore.KindAccessInvariant, tenantstore.KindRoleBinding: // sidecars see a move by the tenant's placement
	default:
		b.shared = true
	}
}

// note takes a change into the objects and the batch, and returns what of it may not wait.
func (p *Publisher) note(b *batch, change tenantstore.Change) urgentBatch {
	urgent := urgentBatch{batch: newBatch(), whole: true}
	for _, object := range change.Put {
		key := object.Key()
		urgent.note(key, revokes(p.objects[key], object))
		p.objects[key] = object
		b.touch(key)
	}
	for _, key := range change.Delete {
		urgent.note(key, ends(key.Kind))
		delete(p.objects, key)
		b.touch(key)
	}
	return urgent
}

func (p *Publisher) publishAll(revision tenantstore.Revision) error {
	b := newBatch()
	b.shared, b.all = true, true
	for name := range p.tenants { // those that are gone since
		b.tenants[name] = struct{}{}
	}
	return p.publish(revision, b)
}

func (p *Publisher) publish(revision tenantstore.Revision, b *batch) error {
	put, remove := p.resources(revision, b)
	put, remove = append(b.put, put...), append(b.remove, remove...)
	if err := p.Cache.Apply(revision, put, remove); err != nil {
		return fmt.Errorf("publish revision %d: %w", revision, err)
	}
	p.Log.Debug("published", zap.Int64("revision", revision), zap.Int("resources", len(put)), zap.Int("removed", len(remove)))
	return nil
}

// resources are what a batch makes of the objects as they are, and what it takes away.
func (p *Publisher) resources(revision tenantstore.Revision, b *batch) (put []server.Resource, remove []server.Key) {
	if b.shared {
		p.keys.follow(p.objects)
		mesh := ir.Build(tenantstore.Snapshot{Revision: revision, Objects: p.objects}, ir.Options{TrustDomain: p.TrustDomain, JWKS: p.keys.sets()})
		p.indexPrincipals(mesh)
		now := map[server.Key]struct{}{}
		for _, r := range p.changed(translator.Translate(mesh)) {
			key := server.Key{TypeURL: r.TypeURL, Audience: r.Audience, Name: r.Name}
			put = append(put, server.Resource{Key: key, Message: r.Message})
			now[key] = struct{}{}
		}
		for key := range p.shared {
			if _, ok := now[key]; !ok {
				remove = append(remove, key)
			}
		}
		p.shared = now
	}
	if b.all || len(b.tiers) > 0 {
		p.tiers = tenantstore.Tiers(p.objects)
		for key, o := range p.objects {
			if key.Kind != tenantstore.KindTenant {
				continue
			}
			if _, ok := b.tiers[o.Tenant.Tier]; ok || b.all {
				b.tenants[key.Name] = struct{}{}
			}
		}
	}
	for name := range b.tenants {
		had := p.tenants[name]
		delete(p.tenants, name)
		now := map[server.Key]struct{}{}
		if tenant, ok := ir.BuildTenant(p.objects, p.tiers, name); ok {
			for _, r := range p.changed(translator.Tenant(tenant)) {
				key := server.Key{TypeURL: r.TypeURL, Audience: r.Audience, Name: r.Name}
				put = append(put, server.Resource{Key: key, Message: r.Message})
				now[key] = struct{}{}
				p.tenants[name] = append(p.tenants[name], key)
			}
		}
		for _, key := range had {
			if _, ok := now[key]; !ok {
				remove = append(remove, key)
			}
		}
	}
	return put, remove
}

func (p *Publisher) changed(resources []translator.Resource) []translator.Resource {
	if p.Change != nil {
		for i := range resources {
			resources[i] = p.Change(resources[i])
		}
	}
	return resources
}

func (p *Publisher) indexPrincipals(mesh *ir.Mesh) {
	subjects := map[identity.Principal]server.Subject{}
	for i := range mesh.Workloads {
		w := &mesh.Workloads[i]
		for _, instance := range w.Instances {
			subjects[instance.ID] = server.Subject{
				Role: string(tenantstore.RoleSidecar), Cell: instance.Cell, Workload: w.Name,
				Audiences: translator.Audiences(instance.Cell, w.Name),
			}
		}
	}
	close(p.directory.Swap(&directory{subjects, make(chan struct{})}).changed)
}
