package policyset

import (
	"fmt"
	"strings"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// Streams knows, at a gateway, which requests to a workload last as long as they are used: by workload, and there by how it
// is exposed.
type Streams map[string][]streamClasses

type streamClasses struct {
	strip     string // of the path, before a class is looked for
	classes   []authz.Class
	streaming map[string]bool // of their names
}

func streams(list []*api.Streams) (Streams, error) {
	if len(list) == 0 {
		return nil, nil
	}
	all := Streams{}
	for _, s := range list {
		of := streamClasses{strip: s.Strip, streaming: map[string]bool{}}
		for _, c := range s.Classes {
			class, problems := authz.NewClass(c.Name, c.Methods, c.Paths)
			if len(problems) > 0 {
				return nil, fmt.Errorf("class %q of %s: %w", c.Name, s.Workload, problems)
			}
			of.classes = append(of.classes, class)
			if c.Streaming {
				of.streaming[c.Name] = true
			}
		}
		all[s.Workload] = append(all[s.Workload], of)
	}
	return all, nil
}

// Long reports whether a request to a workload is of a class that streams.
func (s Streams) Long(workload, method, path string) bool {
	for i := range s[workload] {
		of := &s[workload][i]
		rest := path
		if of.strip != "" && of.strip != "/" {
			below, ok := strings.CutPrefix(path, of.strip)
			if !ok || below != "" && below[0] != '/' {
				continue
			}
			rest = "/" + strings.TrimPrefix(below, "/")
		}
		if of.streaming[authz.Classify(of.classes, method, rest)] {
			return true
		}
	}
	return false
}

// Basis is what of a set an open request was judged by: of two that are equal, the judgement is, but for time.
type Basis struct {
	self     *Self
	tenant   *Tenant
	policies *authz.Set
	changed  struct{ revoked, issuers int }
}

// Basis is that of a request for a tenant, "" for none.
func (s *Set) Basis(tenant string) Basis {
	if s == nil {
		return Basis{}
	}
	t, _ := s.Tenant(tenant)
	return Basis{s.Self, t, s.Policies, s.changed}
}
