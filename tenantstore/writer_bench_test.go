package tenantstore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

// BenchmarkWriteOneTenant is what a change of one tenant costs, by how many there are.
func BenchmarkWriteOneTenant(b *testing.B) {
	for _, tenants := range []int{100, 12_000} {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			store := memstore.New()
			defer store.Close()
			w := tenantstore.NewWriter(store, time.Now)
			decode := func(text string) []*tenantstore.Object {
				documents, err := tenantstore.DecodeYAML("", strings.NewReader(text))
				if err != nil {
					b.Fatal(err)
				}
				var list []*tenantstore.Object
				for _, d := range documents {
					list = append(list, d.Object)
				}
				return list
			}
			tenant := func(i int, spiky bool) string {
				return fmt.Sprintf("---\napiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t-%d}\nspec: {tier: bronze, region: us, spiky: %v}\n", i, spiky)
			}
			text := strings.Builder{}
			text.WriteString("apiVersion: tenantmesh.dev/v1alpha1\nkind: Cell\nmetadata: {name: us-1}\nspec: {region: us, capacity: {freeCpu: 0.9, freeDbConn: 1000000, dbConnCap: 1000000}}\n")
			for i := range tenants {
				text.WriteString(tenant(i, false))
			}
			if _, err := w.Apply(b.Context(), "bench", decode(text.String()), tenantstore.ApplyOptions{}); err != nil {
				b.Fatal(err)
			}
			change := [][]*tenantstore.Object{decode(tenant(7, true)), decode(tenant(7, false))}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := w.Apply(b.Context(), "bench", change[i%2], tenantstore.ApplyOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
