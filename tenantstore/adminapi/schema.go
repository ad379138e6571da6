package adminapi

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// envelope is an object of one kind, as its JSON has it.
type envelope[Spec any] struct {
	APIVersion string               `json:"apiVersion"`
	Kind       tenantstore.Kind     `json:"kind"`
	Metadata   tenantstore.Metadata `json:"metadata"`
	Spec       Spec                 `json:"spec"`
	Status     tenantstore.Status   `json:"status,omitempty"`
}

var envelopes = map[tenantstore.Kind]reflect.Type{
	tenantstore.KindCell:          reflect.TypeFor[envelope[tenantstore.CellSpec]](),
	tenantstore.KindTier:          reflect.TypeFor[envelope[policy.TierSpec]](),
	tenantstore.KindTenant:        reflect.TypeFor[envelope[tenantstore.TenantSpec]](),
	tenantstore.KindWorkload:      reflect.TypeFor[envelope[tenantstore.WorkloadSpec]](),
	tenantstore.KindDependency:    reflect.TypeFor[envelope[tenantstore.DependencySpec]](),
	tenantstore.KindTokenIssuer:   reflect.TypeFor[envelope[tenantstore.TokenIssuerSpec]](),
	tenantstore.KindAccessPolicy:  reflect.TypeFor[envelope[policy.AccessPolicySpec]](),
	tenantstore.KindAccessGrant:   reflect.TypeFor[envelope[policy.AccessGrantSpec]](),
	tenantstore.KindTierPromotion: reflect.TypeFor[envelope[tenantstore.TierPromotionSpec]](),

	tenantstore.KindAccessInvariant: reflect.TypeFor[envelope[policy.AccessInvariantSpec]](),
	tenantstore.KindRoleBinding:     reflect.TypeFor[envelope[tenantstore.RoleBindingSpec]](),
}

// schema is the JSON Schema of a kind's objects.
func schema(api huma.API, info tenantstore.KindInfo) *huma.Schema {
	return huma.SchemaFromType(api.OpenAPI().Components.Schemas, envelopes[info.Kind])
}
