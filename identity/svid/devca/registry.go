package devca

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/tenantmesh/tenantmesh/identity"
)

// Registration entitles a process to an SVID.
type Registration struct {
	ID    identity.Principal `json:"id"`
	PID   int                `json:"pid,omitempty"`   // this process and its descendants that have no registration of their own; 0: any
	Start uint64             `json:"start,omitempty"` // set by the CA: when the process started
	UID   int                `json:"uid"`             // -1: any
}

// entitles returns how close the registration is to a caller: 0 for the process itself, more for its ancestors, most
// for a registration that names no process, and -1 when it does not entitle the caller.
func (r Registration) entitles(c caller) int {
	switch {
	case r.UID != -1 && r.UID != c.uid:
		return -1
	case r.PID == 0:
		return maxDepth
	default:
		return distance(c.pid, r.PID, r.Start)
	}
}

// registry is the registrations, kept in a file.
type registry struct {
	path        string
	trustDomain string

	mu      sync.Mutex
	list    []Registration
	changed chan struct{} // closed at the next change
}

func loadRegistry(path, trustDomain string) (*registry, error) {
	r := &registry{path: path, trustDomain: trustDomain, changed: make(chan struct{})}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r.list); err != nil {
		return nil, fmt.Errorf("%s must hold registrations: %w", path, err)
	}
	return r, nil
}

func (r *registry) add(registration Registration) error {
	if registration.ID.IsZero() || registration.ID.TrustDomain() != r.trustDomain {
		return fmt.Errorf("id must be a SPIFFE ID of trust domain %s (got %q)", r.trustDomain, registration.ID)
	}
	if registration.PID == 0 && registration.UID == -1 {
		return errors.New("pid or uid must be set (got neither)")
	}
	if registration.PID != 0 {
		p, err := readProcess(registration.PID)
		if err != nil {
			return fmt.Errorf("pid must be a running process (got %d)", registration.PID)
		}
		registration.Start = p.start
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.list, registration) {
		return nil
	}
	// Those of processes that are gone entitle nobody any more.
	kept := slices.DeleteFunc(slices.Clone(r.list), func(old Registration) bool {
		p, err := readProcess(old.PID)
		return old.PID != 0 && (err != nil || p.start != old.Start)
	})
	return r.save(append(kept, registration))
}

func (r *registry) remove(id identity.Principal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.save(slices.DeleteFunc(slices.Clone(r.list), func(old Registration) bool { return old.ID == id }))
}

func (r *registry) save(list []Registration) error {
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(r.path, text); err != nil {
		return err
	}
	r.list = list
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// entitled returns the IDs that c may have, and what is closed when that may have changed. The closest registrations
// count: a process that was registered does not get what its parent has.
func (r *registry) entitled(c caller) ([]identity.Principal, <-chan struct{}) {
	r.mu.Lock()
	list, changed := r.list, r.changed
	r.mu.Unlock()
	var ids []identity.Principal
	closest := maxDepth + 1
	for _, registration := range list {
		switch n := registration.entitles(c); {
		case n < 0 || n > closest:
		case n < closest:
			closest, ids = n, []identity.Principal{registration.ID}
		case !slices.Contains(ids, registration.ID):
			ids = append(ids, registration.ID)
		}
	}
	return ids, changed
}
