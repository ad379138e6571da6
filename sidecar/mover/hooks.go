package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// copyRetry is how soon a hook that a cell's sidecar did not take is called again: its placement is a moment behind.
const copyRetry = 20 * time.Millisecond

// maxDigest bounds what is read of a digest, in bytes.
const maxDigest = 128

// hooks calls the hooks of one workload for one tenant, at one epoch.
type hooks struct {
	*Mover
	tenant *policyset.Tenant
	data   *api.TenantData
}

// errUntaken means that a cell's sidecar has not passed a hook on, and will when its placement is as new as this one's.
var errUntaken = errors.New("the cell's sidecar has not applied the placement yet")

// call calls one hook in one cell. The caller closes the answer's body.
func (h *hooks) call(ctx context.Context, cell, method, path string, body io.Reader, kind string) (*http.Response, error) {
	role := tenanttoken.Owner
	if cell == h.tenant.Target {
		role = tenanttoken.Replica
	}
	token, err := h.Decider.ForData(h.tenant, cell, role)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+h.data.Workload+path, body)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		request.Header.Set("content-type", kind)
	}
	if method != http.MethodGet {
		request.Header.Set(propagation.HeaderFence, strconv.FormatInt(h.fences.next(h.tenant.UID, h.tenant.Epoch, h.Decider.Now()), 10))
	}
	request.Header.Set(propagation.HeaderTxnToken, token)
	request.Header.Set(propagation.HeaderCell, cell)
	request.Header.Set(propagation.HeaderHook, h.data.Workload)
	response, err := h.client.RoundTrip(request)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("%s %s in %s hangs", method, path, cell)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s in %s: %w", method, path, cell, err)
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	if notTaken(response) {
		return nil, errUntaken
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxDigest))
	return nil, fmt.Errorf("%s %s in %s answers %d %s %q", method, path, cell, response.StatusCode, response.Header.Get(propagation.HeaderReason), text)
}

// patiently calls until the cells' sidecars have applied the placement.
func patiently(ctx context.Context, call func() error) error {
	for {
		err := call()
		if !errors.Is(err, errUntaken) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(copyRetry):
		}
	}
}

// page is one export that was imported.
type page struct {
	bytes  int64
	cursor string // "" when the workload gives none
	more   bool
}

// pass exports what changed at the owner after a cursor, and imports it at the other cell as it comes: in place of what is
// there when the cursor is "", on top of it otherwise.
func (h *hooks) pass(ctx context.Context, cursor string) (p page, err error) {
	method, path := http.MethodPut, h.data.Export
	if cursor != "" {
		method, path = http.MethodPatch, path+"?cursor="+url.QueryEscape(cursor)
	}
	err = patiently(ctx, func() error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		exported, err := h.call(ctx, h.tenant.Cell, http.MethodGet, path, nil, "")
		if err != nil {
			return err
		}
		defer exported.Body.Close()
		counted := &counter{source: exported.Body}
		imported, err := h.call(ctx, h.tenant.Target, method, h.data.Import, counted, exported.Header.Get("content-type"))
		if failure := counted.failed(); failure != nil && ctx.Err() == nil { // the import fails because of it
			return fmt.Errorf("GET %s in %s: %w", path, h.tenant.Cell, failure)
		}
		if err != nil {
			return err
		}
		p = page{counted.bytes(), exported.Header.Get(propagation.HeaderCursor), exported.Header.Get(propagation.HeaderMore) == "true"}
		return imported.Body.Close()
	})
	return p, err
}

// counter counts what is read, and keeps why it could not be read on.
type counter struct {
	source io.Reader

	mu    sync.Mutex
	count int64
	err   error
}

func (c *counter) Read(buffer []byte) (int, error) {
	n, err := c.source.Read(buffer)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count += int64(n)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		c.err = err
	}
	return n, err
}

func (c *counter) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

func (c *counter) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// digests are those of both cells.
func (h *hooks) digests(ctx context.Context) (from, to string, err error) {
	read := func(cell string, into *string) error {
		return patiently(ctx, func() error {
			response, err := h.call(ctx, cell, http.MethodGet, h.data.Digest, nil, "")
			if err != nil {
				return err
			}
			defer response.Body.Close()
			text, err := io.ReadAll(io.LimitReader(response.Body, maxDigest))
			*into = strings.TrimSpace(string(text))
			return err
		})
	}
	if err := read(h.tenant.Cell, &from); err != nil {
		return "", "", err
	}
	return from, to, read(h.tenant.Target, &to)
}

// remove deletes the tenant's data where it was.
func (h *hooks) remove(ctx context.Context) error {
	return patiently(ctx, func() error {
		response, err := h.call(ctx, h.tenant.Target, http.MethodDelete, h.data.Delete, nil, "")
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
}

// fences gives out fencing tokens: each is greater than all before it for its tenant, of this process and of older
// epochs.
type fences struct {
	mu   sync.Mutex
	last map[string]int64 // by the tenant's UID
}

// A fencing token is the epoch, above fenceBits bits of the milliseconds since fenceStart: they last for 34 years.
const fenceBits = 40

var fenceStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (f *fences) next(uid string, epoch int64, now time.Time) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	token := max(f.last[uid]+1, epoch<<fenceBits|now.Sub(fenceStart).Milliseconds()&(1<<fenceBits-1))
	f.last[uid] = token
	return token
}

// keep forgets the tenants that do not move any more.
func (f *fences) keep(moving func(uid string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.last, func(uid string, _ int64) bool { return !moving(uid) })
}
