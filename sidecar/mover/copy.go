package mover

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Timing of what follows.
const (
	hookRetry  = time.Second            // after a hook that failed
	followRest = 100 * time.Millisecond // between two looks at what is left, in MIGRATING
	deleteTime = time.Minute            // of one workload's deletion, which nobody waits for
	tellEvery  = time.Second            // of progress that changes no decision
)

// What is left when the fence may come.
const (
	smallPass    = 64 << 10 // bytes
	smallJournal = 16       // writes
)

// Report tells the control plane what became of a tenant's data at an epoch.
type Report func(tenant string, epoch int64, copies []*api.Copy)

// work is what this member does for one tenant at one epoch.
type work struct {
	epoch  int64
	cancel context.CancelFunc
	done   chan struct{}
}

// Run sees to the data of the tenants whose mover this member is, until ctx ends: brings to the other cell what may be
// brought while the owner serves, copies and compares the rest under the seal, and deletes it at the source after the
// move. What became of it is given to report.
func (m *Mover) Run(ctx context.Context, report Report, log *zap.Logger) error {
	working, brought := map[string]work{}, map[string]*progress{}
	defer func() {
		for _, w := range working {
			w.cancel()
			<-w.done
		}
	}()
	for {
		changed, set := m.Sets.Changed(), m.Sets.Load()
		for name, w := range working {
			if t, ok := set.Moving()[name]; !ok || t.Epoch != w.epoch {
				w.cancel()
				<-w.done
				delete(working, name)
			}
		}
		m.tidy(set)
		for name := range brought {
			if set.Moving()[name] == nil {
				delete(brought, name)
			}
		}
		for name, t := range set.Moving() {
			if _, busy := working[name]; busy || t.Mover != m.Member || !t.Copy && (t.State != policyset.Final || !t.Sealed) {
				continue
			}
			p := brought[name]
			if p == nil || p.uid != t.UID || p.follow != t.Follow || t.Follow == 0 {
				p = &progress{uid: t.UID, follow: t.Follow, workloads: map[string]*follower{}}
				brought[name] = p
			}
			ctx, cancel := context.WithCancel(ctx)
			w := work{t.Epoch, cancel, make(chan struct{})}
			working[name] = w
			teller := &teller{tenant: name, epoch: t.Epoch, report: report, copies: map[string]*api.Copy{}, log: log}
			go func() {
				defer close(w.done)
				m.see(ctx, set.Self.TenantData, t, p, teller)
			}()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// progress is what this member has brought since it was appointed.
type progress struct {
	uid       string
	follow    int64
	workloads map[string]*follower // only the work under way uses it
}

// follower is how far the other cell is with one workload.
type follower struct {
	cursor  string
	begun   bool // the other cell has what was there at the cursor
	passes  int64
	bytes   int64
	resyncs int64
}

// see sees to each workload, all at once.
func (m *Mover) see(ctx context.Context, list []*api.TenantData, t *policyset.Tenant, p *progress, tell *teller) {
	var group sync.WaitGroup
	for _, data := range list {
		if p.workloads[data.Workload] == nil {
			p.workloads[data.Workload] = &follower{}
		}
		c := &copying{hooks: hooks{m, t, data}, follower: p.workloads[data.Workload], tell: tell}
		group.Go(func() {
			switch {
			case t.State == policyset.Final:
				c.untilDone(ctx, c.delete)
			case t.State == policyset.Fencing:
				if err := c.finish(ctx); err != nil && ctx.Err() == nil { // once: a fence does not stand for ever
					c.say(err, func(*api.Copy) {})
				}
			case data.Strategy == policyset.StrategyCatchUp:
				c.untilDone(ctx, c.catchUp)
			case data.Strategy == policyset.StrategyDualWrite:
				c.untilDone(ctx, c.replay)
			}
		})
	}
	group.Wait()
}

// copying is the data of one workload on its way.
type copying struct {
	hooks
	*follower
	tell *teller
}

// untilDone tries again and again, and says why it must.
func (c *copying) untilDone(ctx context.Context, try func(context.Context) error) {
	for {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		c.say(err, func(*api.Copy) {})
		pause(ctx, hookRetry)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// say reports how far this copy is.
func (c *copying) say(err error, fill func(*api.Copy)) {
	said := &api.Copy{Workload: c.data.Workload, Bytes: c.bytes, Passes: c.passes, Resyncs: c.resyncs}
	if err != nil {
		said.Error = err.Error()
	}
	fill(said)
	c.tell.tell(said)
}

func (c *copying) delete(ctx context.Context) error {
	if c.data.Delete != "" {
		ctx, cancel := context.WithTimeout(ctx, deleteTime)
		defer cancel()
		if err := c.remove(ctx); err != nil {
			return err
		}
	}
	c.say(nil, func(said *api.Copy) { said.Deleted = c.data.Delete != "" })
	return nil
}

// drain passes on what changed after the cursor, until a pass finds no more.
func (c *copying) drain(ctx context.Context) (last int64, err error) {
	for {
		p, err := c.pass(ctx, c.cursor)
		if err != nil {
			return 0, err
		}
		c.bytes += p.bytes
		c.passes++
		if last = p.bytes; p.cursor == c.cursor { // nothing has changed
			last = 0
		}
		c.cursor, c.begun = p.cursor, true
		if !p.more {
			return last, nil
		}
	}
}

// afresh brings everything, whatever the other cell has.
func (c *copying) afresh(ctx context.Context) error {
	c.cursor, c.begun = "", false
	_, err := c.drain(ctx)
	return err
}

// catchUp keeps the other cell close, in MIGRATING. It returns when ctx ends, or with why it cannot.
func (c *copying) catchUp(ctx context.Context) error {
	for ctx.Err() == nil {
		last, err := c.drain(ctx)
		if err == nil && c.cursor == "" {
			err = fmt.Errorf("GET %s of workload %s, whose strategy is catchUp, must answer how far it goes in x-tenantmesh-cursor", c.data.Export, c.data.Workload)
		}
		if err != nil {
			return err
		}
		c.say(nil, func(said *api.Copy) { said.Caught = last <= smallPass })
		pause(ctx, followRest)
	}
	return nil
}

// finish brings the rest under the seal, and compares. When what was brought before is not equal, everything is brought.
func (c *copying) finish(ctx context.Context) error {
	// Shorter than the fence stands: so the move can say which hook hangs before it steps back.
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.tenant.Pause, 10*time.Second)*4/5)
	defer cancel()
	fresh, err := c.rest(ctx)
	if err != nil {
		return err
	}
	from, to, err := c.digests(ctx)
	if err == nil && from != to && !fresh {
		c.resyncs++
		if err = c.afresh(ctx); err == nil {
			from, to, err = c.digests(ctx)
		}
	}
	if err != nil {
		return err
	}
	c.say(nil, func(said *api.Copy) { said.DigestFrom, said.DigestTo = from, to })
	return nil
}

// rest brings what is left; fresh means everything.
func (c *copying) rest(ctx context.Context) (fresh bool, err error) {
	if c.data.Strategy == policyset.StrategyDualWrite && c.tenant.Follow != 0 {
		if err := c.replayRest(ctx); err == nil || ctx.Err() != nil {
			return false, err
		}
	}
	if c.data.Strategy == policyset.StrategyCatchUp && c.begun {
		_, err := c.drain(ctx)
		return false, err
	}
	return true, c.afresh(ctx)
}

// teller gathers what became of each workload's data, and reports what matters at once and the rest now and then.
type teller struct {
	tenant string
	epoch  int64
	report Report
	log    *zap.Logger

	mu     sync.Mutex
	copies map[string]*api.Copy
	told   time.Time
}

func (t *teller) tell(c *api.Copy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.copies[c.Workload]
	t.copies[c.Workload] = c
	matters := before == nil || before.Caught != c.Caught || before.Error != c.Error || before.DigestTo != c.DigestTo || before.DigestFrom != c.DigestFrom || before.Deleted != c.Deleted
	if now := time.Now(); matters || now.Sub(t.told) >= tellEvery {
		t.told = now
	} else {
		return
	}
	var list []*api.Copy
	for _, each := range t.copies {
		list = append(list, proto.CloneOf(each))
	}
	if matters {
		t.log.Info("saw to the data of a tenant", zap.String("tenant", t.tenant), zap.Int64("epoch", t.epoch), zap.Any("copy", c))
	}
	t.report(t.tenant, t.epoch, list)
}
