package placement

import (
	"fmt"
	"math/rand/v2"
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

// TestSpread places 12,000 tenants over 24 cells. Each takes a connection and a little CPU, as a cell's reports would
// say; the ones that are spiky are to be spread evenly.
func TestSpread(t *testing.T) {
	var cells []Cell
	for i := range 24 {
		c := Cell{Name: fmt.Sprintf("cell-%02d", i), Region: "us", FreeCPU: 0.9, FreeDBConn: 2000, DBConnCap: 2000, Utilization: 0.1}
		if i%4 == 3 {
			c.Region, c.Residency = "eu", "eu"
		}
		if i >= 16 { // two in the EU
			c.Dedicated = true
		}
		cells = append(cells, c)
	}
	random := rand.New(rand.NewPCG(1, 2))
	placed, refused := 0, 0
	for i := range 12_000 {
		tenant := Tenant{Region: "us", Dedicated: i%1000 == 7} // platinum: 12; the rest of the 1 % is gold
		if random.IntN(5) == 0 {
			tenant.Region, tenant.Residency = "eu", "eu"
		}
		spiky := random.IntN(10) == 0
		best := Place(tenant, cells)[0]
		if best.Rejected != "" {
			refused++
			if !tenant.Dedicated {
				t.Fatalf("tenant %d has no cell: %+v", i, best)
			}
			continue
		}
		placed++
		for j := range cells {
			c := &cells[j]
			if c.Name != best.Cell {
				continue
			}
			if c.Region != tenant.Region || (tenant.Residency != "" && c.Residency != tenant.Residency) || c.Dedicated != tenant.Dedicated || c.FreeCPU <= MinFreeCPU || c.FreeDBConn <= MinFreeDBConn {
				t.Fatalf("tenant %+v went to %+v", tenant, *c)
			}
			c.Tenants++
			c.FreeDBConn--
			c.FreeCPU -= 0.0005
			c.Utilization += 0.0005
			if spiky {
				c.Spiky++
			}
		}
	}
	for _, region := range []string{"us", "eu"} {
		low, high, least, most := 1.0, 0.0, 1<<30, 0
		for _, c := range cells {
			if c.Dedicated && c.Tenants > 1 {
				t.Errorf("dedicated %s holds %d tenants", c.Name, c.Tenants)
			}
			if c.Dedicated || c.Region != region {
				continue
			}
			share := float64(c.Spiky) / float64(c.Tenants)
			low, high, least, most = min(low, share), max(high, share), min(least, c.Tenants), max(most, c.Tenants)
		}
		t.Logf("%s: %d to %d tenants a shared cell, spiky share %.3f to %.3f", region, least, most, low, high)
		if low < 0.05 || high > 0.15 || float64(most) > 1.1*float64(least) {
			t.Errorf("%s is uneven: a tenth is spiky, and a cell should hold between half and one and a half of that", region)
		}
	}
	t.Logf("%d placed, %d refused for want of a free dedicated cell", placed, refused)
	if refused+placed != 12_000 || refused > 12 {
		t.Errorf("%d placed and %d refused", placed, refused)
	}
}
