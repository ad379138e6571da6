package mover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// copyRetry is how soon a hook that a cell's sidecar did not take is called again: its placement is a moment behind.
const copyRetry = 20 * time.Millisecond

const (
	// copyTime bounds the copying of a tenant: shorter than a fence stands (10 s), so that the move can say which hook
	// hangs before it steps back.
	copyTime = 8 * time.Second
	// deleteTime bounds one workload's deletion; nobody waits for it. One that failed is tried again deleteRetry later.
	deleteTime  = time.Minute
	deleteRetry = time.Second
)

// Run sees to the data of the tenants whose mover this member is, until ctx ends: copies it while they are sealed for
// the cutover, and deletes it at the source after their move. What became of it is given to report.
func (m *Mover) Run(ctx context.Context, member string, report func(tenant string, epoch int64, copies []*api.Copy), log *zap.Logger) error {
	type work struct {
		epoch  int64
		cancel context.CancelFunc
	}
	working := map[string]work{}
	for {
		changed, set := m.Sets.Changed(), m.Sets.Load()
		for name, w := range working {
			if t, ok := set.Moving()[name]; !ok || t.Epoch != w.epoch {
				w.cancel()
				delete(working, name)
			}
		}
		for name, t := range set.Moving() {
			if _, busy := working[name]; busy || !t.Sealed || t.Mover != member {
				continue
			}
			ctx, cancel := context.WithCancel(ctx)
			working[name] = work{t.Epoch, cancel}
			go func() {
				for {
					copies := m.see(ctx, set, t)
					if ctx.Err() != nil {
						return
					}
					log.Info("saw to the data of a tenant", zap.String("tenant", name), zap.Int64("epoch", t.Epoch), zap.Any("copies", copies))
					report(name, t.Epoch, copies)
					// A copy that failed is made again by another mover, after the fence; nobody else deletes.
					if t.State == policyset.Fencing || !slices.ContainsFunc(copies, func(c *api.Copy) bool { return c.Error != "" }) {
						return
					}
					select {
					case <-ctx.Done():
						return
					case <-time.After(deleteRetry):
					}
				}
			}()
		}
		select {
		case <-ctx.Done():
			for _, w := range working {
				w.cancel()
			}
			return nil
		case <-changed:
		}
	}
}

// see copies, or deletes, the tenant's data of every workload.
func (m *Mover) see(ctx context.Context, set *policyset.Set, t *policyset.Tenant) (copies []*api.Copy) {
	copying, cancel := context.WithTimeout(ctx, copyTime)
	defer cancel()
	for _, data := range set.Self.TenantData {
		c := &api.Copy{Workload: data.Workload}
		var err error
		if t.State == policyset.Fencing {
			err = m.copy(copying, t, data, c)
		} else if data.Delete != "" {
			deleting, cancel := context.WithTimeout(ctx, deleteTime)
			_, err = m.hook(deleting, t, data, t.Target, http.MethodDelete, data.Delete, payload{})
			cancel()
			c.Deleted = err == nil
		}
		if err != nil {
			c.Error = err.Error()
		}
		copies = append(copies, c)
	}
	return copies
}

// copy puts the owner's data in the place of the other's, and compares both.
func (m *Mover) copy(ctx context.Context, t *policyset.Tenant, data *api.TenantData, c *api.Copy) error {
	exported, err := m.hook(ctx, t, data, t.Cell, http.MethodGet, data.Export, payload{})
	if err != nil {
		return err
	}
	c.Bytes = int64(len(exported.text))
	if _, err = m.hook(ctx, t, data, t.Target, http.MethodPut, data.Import, exported); err != nil {
		return err
	}
	from, err := m.hook(ctx, t, data, t.Cell, http.MethodGet, data.Digest, payload{})
	to, err2 := m.hook(ctx, t, data, t.Target, http.MethodGet, data.Digest, payload{})
	c.DigestFrom, c.DigestTo = from.digest(), to.digest()
	return errors.Join(err, err2)
}

// payload is what a hook takes or gives.
type payload struct {
	text []byte
	kind string // Content-Type
}

// digest is a digest as it is compared and kept.
func (p payload) digest() string { return fmt.Sprintf("%.128s", strings.TrimSpace(string(p.text))) }

// hook calls one hook in one cell, and again while that cell's sidecar has not yet applied the tenant's epoch.
func (m *Mover) hook(ctx context.Context, t *policyset.Tenant, data *api.TenantData, cell, method, path string, body payload) (payload, error) {
	role := tenanttoken.Owner
	if cell == t.Target {
		role = tenanttoken.Replica
	}
	for {
		token, err := m.Decider.ForData(t, cell, role)
		if err != nil {
			return payload{}, err
		}
		request, err := http.NewRequestWithContext(ctx, method, "http://"+data.Workload+path, bytes.NewReader(body.text))
		if err != nil {
			return payload{}, err
		}
		if body.kind != "" {
			request.Header.Set("content-type", body.kind)
		}
		request.Header.Set(propagation.HeaderTxnToken, token)
		request.Header.Set(propagation.HeaderCell, cell)
		request.Header.Set(propagation.HeaderHook, data.Workload)
		response, err := m.client.RoundTrip(request)
		var text []byte
		if err == nil {
			text, err = io.ReadAll(io.LimitReader(response.Body, m.MaxBody+1))
			_ = response.Body.Close()
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return payload{}, fmt.Errorf("%s %s in %s hangs: it had not answered when the time for the tenant's data was over", method, path, cell)
		case err != nil:
			return payload{}, fmt.Errorf("%s %s in %s: %w", method, path, cell, err)
		case response.StatusCode < 300 && int64(len(text)) <= m.MaxBody:
			return payload{text, response.Header.Get("content-type")}, nil
		case response.StatusCode < 300:
			return payload{}, fmt.Errorf("%s %s in %s answers more than %d bytes", method, path, cell, m.MaxBody)
		case !notTaken(response):
			return payload{}, fmt.Errorf("%s %s in %s answers %d %s", method, path, cell, response.StatusCode, response.Header.Get(propagation.HeaderReason))
		}
		select {
		case <-ctx.Done():
			return payload{}, fmt.Errorf("%s %s in %s: the cell's sidecar does not take it (%s)", method, path, cell, response.Header.Get(propagation.HeaderReason))
		case <-time.After(copyRetry):
		}
	}
}
