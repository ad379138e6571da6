package freeport_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/freeport"
)

// TestTake takes more than a block, with one port of it taken by somebody else.
func TestTake(t *testing.T) {
	seen := map[int]bool{}
	one, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	squatter, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(one[0]+1))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	seen[one[0]+1] = true
	for range 3 {
		ports, err := freeport.Take(50)
		if err != nil || len(ports) != 50 {
			t.Fatalf("%d ports, %v", len(ports), err)
		}
		for _, port := range ports {
			if seen[port] {
				t.Errorf("port %d was given out though it was taken", port)
			}
			seen[port] = true
			if err := freeport.Check(port); err != nil {
				t.Error(err)
			}
		}
	}
}
