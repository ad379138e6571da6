package tenantstore_test

import (
	"reflect"
	"testing"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

func TestGroups(t *testing.T) {
	objects := map[tenantstore.Key]*tenantstore.Object{}
	put := func(kind tenantstore.Kind, name string, fill func(*tenantstore.Object)) {
		o := &tenantstore.Object{Kind: kind, Metadata: tenantstore.Metadata{Name: name}}
		fill(o)
		objects[o.Key()] = o
	}
	member := func(name string, spec tenantstore.MemberSpec) {
		put(tenantstore.KindMember, name, func(o *tenantstore.Object) { o.Member = &spec })
	}
	put(tenantstore.KindWorkload, "front", func(o *tenantstore.Object) { o.Workload = &tenantstore.WorkloadSpec{} })
	put(tenantstore.KindWorkload, "jobs", func(o *tenantstore.Object) { o.Workload = &tenantstore.WorkloadSpec{BoundTenant: "acme"} })
	member("g2", tenantstore.MemberSpec{Role: tenantstore.RoleGateway, Counted: []string{"gateways"}})
	member("g1", tenantstore.MemberSpec{Role: tenantstore.RoleGateway, Counted: []string{"gateways", "tenant/acme"}})
	member("g3", tenantstore.MemberSpec{Role: tenantstore.RoleGateway, Left: true})
	member("g4", tenantstore.MemberSpec{Role: tenantstore.RoleGateway, Fenced: true})
	member("f1", tenantstore.MemberSpec{Role: tenantstore.RoleSidecar, Cell: "us-1", Workload: "front"})
	member("f2", tenantstore.MemberSpec{Role: tenantstore.RoleSidecar, Cell: "eu-1", Workload: "front"})
	member("j1", tenantstore.MemberSpec{Role: tenantstore.RoleSidecar, Cell: "us-1", Workload: "jobs", Counted: []string{"workload/us-1/jobs"}})
	got, want := tenantstore.Groups(objects), map[string]tenantstore.Group{
		"gateways":            {Members: []string{"g1", "g2"}, Counted: []string{"g1", "g2"}},
		"tenant/acme":         {Members: []string{"g1", "g2", "j1"}, Counted: []string{"g1"}},
		"workload/us-1/front": {Members: []string{"f1"}},
		"workload/eu-1/front": {Members: []string{"f2"}},
		"workload/us-1/jobs":  {Members: []string{"j1"}, Counted: []string{"j1"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}
