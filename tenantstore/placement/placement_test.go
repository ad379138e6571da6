package placement

import (
	"strings"
	"testing"
)

func TestPlace(t *testing.T) {
	good := Cell{Name: "us-1", Region: "us", FreeCPU: 0.5, FreeDBConn: 100, DBConnCap: 200}
	with := func(change func(*Cell)) Cell {
		c := good
		change(&c)
		return c
	}
	tenant := Tenant{Region: "us"}
	for name, test := range map[string]struct {
		tenant Tenant
		cells  []Cell
		first  string
		why    string // of the first's rejection
	}{
		"one":           {tenant, []Cell{good}, "us-1", ""},
		"draining":      {tenant, []Cell{with(func(c *Cell) { c.Draining = true })}, "us-1", "Draining"},
		"region":        {Tenant{Region: "eu"}, []Cell{good}, "us-1", "region"},
		"residency":     {Tenant{Region: "us", Residency: "eu"}, []Cell{good}, "us-1", "residency"},
		"cpu":           {tenant, []Cell{with(func(c *Cell) { c.FreeCPU = 0.2 })}, "us-1", "freeCpu"},
		"connections":   {tenant, []Cell{with(func(c *Cell) { c.FreeDBConn = 50 })}, "us-1", "freeDbConn"},
		"dedicated":     {Tenant{Region: "us", Dedicated: true}, []Cell{good, with(func(c *Cell) { c.Name, c.Dedicated = "own", true })}, "own", ""},
		"not dedicated": {Tenant{Region: "us", Dedicated: true}, []Cell{good}, "us-1", "pool must be dedicated"},
		"own is taken":  {Tenant{Region: "us", Dedicated: true}, []Cell{with(func(c *Cell) { c.Dedicated, c.Tenants = true, 1 })}, "us-1", "must be free"},
		"shared only":   {tenant, []Cell{with(func(c *Cell) { c.Dedicated = true })}, "us-1", "pool must be shared"},
		"score":         {tenant, []Cell{good, with(func(c *Cell) { c.Name, c.FreeCPU = "us-2", 0.6 })}, "us-2", ""},
		"spiky":         {tenant, []Cell{with(func(c *Cell) { c.Spiky, c.Tenants = 1, 2 }), with(func(c *Cell) { c.Name, c.Tenants = "us-2", 9 })}, "us-2", ""},
		"fewest":        {tenant, []Cell{with(func(c *Cell) { c.Tenants = 2 }), with(func(c *Cell) { c.Name, c.Tenants = "us-2", 1 })}, "us-2", ""},
		"name":          {tenant, []Cell{with(func(c *Cell) { c.Name = "us-2" }), good}, "us-1", ""},
	} {
		got := Place(test.tenant, test.cells)
		if got[0].Cell != test.first || (test.why == "") != (got[0].Rejected == "") || !strings.Contains(got[0].Rejected, test.why) {
			t.Errorf("%s: %+v, want %s first (%q)", name, got, test.first, test.why)
		}
	}
	if got := Place(tenant, []Cell{{Name: "none"}})[0].Score; got != 0 {
		t.Errorf("a cell that reports nothing scores %v", got)
	}
}
