package feature

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/internal/meshtest"
)

// TestAuthorityReplaced: the authority that signs every SVID is replaced under load, in three steps, and no request is lost.
func TestAuthorityReplaced(t *testing.T) {
	w := &world{Mesh: meshtest.Start(t, objects)}
	w.gateway = w.Gateway(t)
	w.front = w.Workload(t, "us-1", "front", http.HandlerFunc(tell))
	w.Apply(t, globex("limits: {requestsPerSecond: -1, concurrency: -1}"))
	token := "Bearer " + w.Token(t, "globex")
	var stop atomic.Bool
	var sent atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				r := meshtest.Do(t, nil, http.MethodGet, w.gateway.URL+"/front/x", http.Header{"Authorization": {token}}, nil)
				if sent.Add(1); r.Status != http.StatusOK {
					t.Errorf("%d %s %s", r.Status, r.Reason(), r.Body)
					return
				}
			}
		})
	}
	both := func(good func(*meshtest.Sidecar) bool) {
		t.Helper()
		until(t, func() bool { return good(w.gateway) && good(w.front) })
	}
	more := func() { // so that some are under way in each step
		t.Helper()
		had := sent.Load()
		until(t, func() bool { return sent.Load() > had+50 || t.Failed() })
	}
	first := roots(t, w.front)
	before := map[*meshtest.Sidecar]string{w.gateway: serial(t, w.gateway), w.front: serial(t, w.front)}
	w.ReplaceAuthority(t, devca.Prepare)
	both(func(s *meshtest.Sidecar) bool { return len(roots(t, s)) == len(first)+1 })
	more()
	w.ReplaceAuthority(t, devca.Activate)
	both(func(s *meshtest.Sidecar) bool { return serial(t, s) != before[s] })
	more()
	w.ReplaceAuthority(t, devca.Retire)
	both(func(s *meshtest.Sidecar) bool {
		now := roots(t, s)
		return len(now) == len(first) && !now[only(first)]
	})
	more()
	stop.Store(true)
	wg.Wait()
	t.Logf("%d requests", sent.Load())
	// New connections are made by what is trusted now.
	w.front = w.front.Restart(t)
	until(t, func() bool { return w.Get(t, w.gateway.URL+"/front/x", "globex").Status == 200 })
}

// only is one of a set.
func only(set map[string]bool) string {
	for one := range set {
		return one
	}
	return ""
}

// roots are the serial numbers of the mesh's authorities that an Envoy trusts.
func roots(t *testing.T, s *meshtest.Sidecar) map[string]bool {
	t.Helper()
	var certs struct {
		Certificates []struct {
			CACert []struct {
				SerialNumber string `json:"serial_number"`
				Names        []struct {
					URI string `json:"uri"`
				} `json:"subject_alt_names"`
			} `json:"ca_cert"`
		}
	}
	if err := json.Unmarshal([]byte(meshtest.Do(t, nil, http.MethodGet, s.Admin+"/certs", nil, nil).Body), &certs); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, c := range certs.Certificates {
		for _, ca := range c.CACert {
			for _, name := range ca.Names {
				if strings.HasPrefix(name.URI, "spiffe://"+meshtest.TrustDomain) {
					found[ca.SerialNumber] = true
				}
			}
		}
	}
	return found
}
