package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// manyTenants is the number that the design promises for.
const manyTenants = 12_000

func measureMemory() error {
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	var set *policyset.Set
	for i := range manyTenants {
		var err error
		if set, err = set.With([]policyset.Change{tenantChange(i)}, int64(i)); err != nil {
			return err
		}
	}
	after := heap()
	each := float64(after-before) / float64(set.Tenants())
	fmt.Fprintf(os.Stdout, "memory a tenant, %d tenants: %.0f bytes, %.2f of 1 KiB\n", set.Tenants(), each, each/1024)
	return nil
}
