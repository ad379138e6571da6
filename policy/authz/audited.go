package authz

import "github.com/tenantmesh/tenantmesh/policy"

// Audited says why the uses of a policy are recorded.
type Audited struct {
	Grant    bool // it is an AccessGrant
	Unproven bool // that nobody else approved
}

// Audited reports whether what a policy allows is recorded, and why.
func (s *Set) Audited(name string) (Audited, bool) {
	if len(s.audited) == 0 {
		return Audited{}, false
	}
	found, ok := s.audited[name]
	return found, ok
}

func (s *Set) audit(p *Policy) {
	if !p.Grant && p.Spec.Audit != policy.AuditAll {
		return
	}
	if s.audited == nil {
		s.audited = map[string]Audited{}
	}
	s.audited[p.Name] = Audited{p.Grant, p.Unproven}
}
