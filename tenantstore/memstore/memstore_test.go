package memstore

import (
	"testing"

	"github.com/tenantmesh/tenantmesh/tenantstore/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Compacter { return New() })
}
