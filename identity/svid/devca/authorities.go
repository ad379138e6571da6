package devca

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Step is one step of replacing the authority, after which nobody must be refused who was not before.
type Step string

// The steps, in their order.
const (
	Prepare  Step = "prepare"  // make the next one; everybody begins to trust it
	Activate Step = "activate" // it signs; everybody gets a new SVID at once
	Retire   Step = "retire"   // trust no other any more: what the ones before signed is refused from now on
)

// authorities are those of the trust domain, in a file: the first signs, all are trusted.
type authorities struct {
	path, trustDomain string

	mu      sync.Mutex
	list    []*authority
	foreign map[string][]byte // of other trust domains, by ID: certificates in DER; nobody changes a map once it is here
	changed chan struct{}     // closed at the next change
}

func loadAuthorities(dir, trustDomain string, now time.Time) (*authorities, error) {
	a := &authorities{path: filepath.Join(dir, "ca.pem"), trustDomain: trustDomain, changed: make(chan struct{})}
	text, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newAuthority(trustDomain, now); err == nil {
			err = writeFile(a.path, text)
		}
	}
	if err != nil {
		return nil, err
	}
	a.list, err = parseAuthorities(a.path, text, trustDomain)
	return a, err
}

// trusted is what everybody is to know: who signs, whom to trust, and what is closed when that changes.
func (a *authorities) trusted() (trust, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := trust{signs: a.list[0], foreign: a.foreign}
	var set jose.JSONWebKeySet
	for _, one := range a.list {
		t.bundle = append(t.bundle, one.cert.Raw...)
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &one.key.PublicKey, KeyID: one.kid, Use: "jwt-svid"})
	}
	t.jwks, _ = json.Marshal(set) // keys that were parsed
	return t, a.changed
}

type trust struct {
	signs        *authority
	foreign      map[string][]byte
	bundle, jwks []byte // certificates in DER, one after the other (SPIFFE Workload API, section 5.2.1); a JWK Set
}

// federated notes the bundle of another trust domain.
func (a *authorities) federated(domain string, certificates []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if bytes.Equal(a.foreign[domain], certificates) {
		return
	}
	next := maps.Clone(a.foreign)
	if next == nil {
		next = map[string][]byte{}
	}
	next[domain] = certificates
	a.foreign = next
	a.signal()
}

func (a *authorities) signal() {
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *authorities) step(step Step, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := slices.Clone(a.list)
	switch step {
	case Prepare:
		if len(list) > 1 {
			return errors.New("the authority is being replaced already: activate the next one, or retire the one before")
		}
		text, err := newAuthority(a.trustDomain, now)
		if err != nil {
			return err
		}
		next, err := parseAuthorities(a.path, text, a.trustDomain)
		if err != nil {
			return err
		}
		list = append(list, next...)
	case Activate:
		if len(list) != 2 {
			return errors.New("no next authority is there: prepare one")
		}
		slices.Reverse(list)
	case Retire:
		list = list[:1]
	default:
		return fmt.Errorf("step must be %s, %s or %s (got %q)", Prepare, Activate, Retire, step)
	}
	var out bytes.Buffer
	for _, one := range list {
		out.Write(one.text)
	}
	if err := writeFile(a.path, out.Bytes()); err != nil {
		return err
	}
	a.list = list
	a.signal()
	return nil
}
