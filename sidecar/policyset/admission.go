package policyset

import (
	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/policy/limit/fair"
)

// Admission says how many requests the service may hold open, and which of them are alike.
type Admission struct {
	Off      bool
	Min, Max int // of the limit; 0: the default
	classes  map[string]class
}

type class struct {
	kind  uint8
	batch bool
}

// Kind is the kind of a request of a class ("" for none), of which latencies are alike, and whether it is batch. Classes beyond the
// fifteenth share one.
func (a *Admission) Kind(name string, writes bool) (kind uint8, batch bool) {
	c := a.classes[name]
	if writes {
		return 2*c.kind + 1, c.batch
	}
	return 2 * c.kind, c.batch
}

func admission(m *api.ProxyConfig) Admission {
	a := Admission{Off: m.Admission.GetOff(), Min: int(m.Admission.GetMin()), Max: int(m.Admission.GetMax())}
	if len(m.Classes) == 0 {
		return a
	}
	a.classes = make(map[string]class, len(m.Classes))
	for i, c := range m.Classes {
		if _, ok := a.classes[c.Name]; !ok {
			a.classes[c.Name] = class{uint8(min(i+1, fair.Kinds/2-1)), c.Priority == "batch"}
		}
	}
	return a
}
