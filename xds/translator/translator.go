// Package translator answers HOW ENVOY SPELLS IT: it turns the mesh into xDS resources, and into those of our own
// that travel beside them to the Go process. It is pure: the same mesh gives the same bytes.
//
// Nothing that Envoy gets grows with the number of tenants, and what changes with policy stays out of listeners.
//
// It imports xds/ir, identity, policy, api and go-control-plane; never tenantstore, xds/server or sidecar.
package translator

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tenantmesh/tenantmesh/xds/ir"
)

// Resource is one resource and who gets it.
type Resource struct {
	TypeURL  string
	Name     string
	Audience string
	Message  proto.Message
}

// ForGo reports whether a type is read by the Go process beside an Envoy, and not by the Envoy.
func ForGo(typeURL string) bool { return strings.HasPrefix(typeURL, "type.googleapis.com/tenantmesh.") }

// Audiences. A gateway belongs to the first two, a sidecar to those of [Audiences].
const (
	AudienceAll     = "all"
	AudienceGateway = "gateway"
)

// AudienceCell is every sidecar of a cell.
func AudienceCell(cell string) string { return "cell/" + cell }

// AudienceWorkload is every sidecar of a workload in a cell.
func AudienceWorkload(cell, workload string) string { return "cell/" + cell + "/workload/" + workload }

// AudienceWorkloads is every sidecar of a workload, in whatever cell.
func AudienceWorkloads(workload string) string { return "workload/" + workload }

// Audiences are those that a sidecar of a workload in a cell belongs to.
func Audiences(cell, workload string) []string {
	return []string{AudienceAll, AudienceCell(cell), AudienceWorkload(cell, workload), AudienceWorkloads(workload)}
}

// Translate returns every resource of the mesh but those of tenants.
func Translate(mesh *ir.Mesh) []Resource {
	resources := gateway(mesh)
	for _, cell := range mesh.Cells {
		resources = append(resources, cellListeners(cell.Name)...)
	}
	for i := range mesh.Workloads {
		for _, instance := range mesh.Workloads[i].Instances {
			resources = append(resources, sidecar(mesh, &mesh.Workloads[i], instance)...)
		}
	}
	return slices.Concat(resources, nativeRules(mesh), enforcement(mesh))
}

func envoyResource(name, audience string, message proto.Message) Resource {
	return Resource{"type.googleapis.com/" + string(message.ProtoReflect().Descriptor().FullName()), name, audience, message}
}

// packed wraps a message of this package's own making, which always marshals; deterministically, so that equal
// configuration has equal bytes.
func packed(message proto.Message) *anypb.Any {
	wrapped := &anypb.Any{}
	if err := anypb.MarshalFrom(wrapped, message, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic(err)
	}
	return wrapped
}
