package server

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// Polled is all that is pushed to somebody, for who polls because nothing can be pushed. Its JSON form is what
// sidecar/policysync keeps on the disk.
type Polled struct {
	Revision  int64                                `json:"revision"`
	Resources map[string]map[string]PolledResource `json:"resources"` // by type, by name
}

// PolledResource is one resource.
type PolledResource struct {
	Version string `json:"version"`
	Body    []byte `json:"body"`
}

// Poll returns what is published for a subject now, and its entity tag: what is published may change though the revision
// does not, because issuers' keys come from elsewhere.
func (c *Cache) Poll(subject Subject) (polled Polled, tag string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	polled = Polled{Revision: c.revision, Resources: map[string]map[string]PolledResource{}}
	var versions []string
	for typeURL, byAudience := range c.resources {
		resources := map[string]PolledResource{}
		for _, audience := range subject.Audiences {
			for name, e := range byAudience[audience] {
				resources[name] = PolledResource{e.resource.Version, e.resource.Resource.GetValue()}
				versions = append(versions, typeURL+" "+name+" "+e.resource.Version)
			}
		}
		if len(resources) > 0 {
			polled.Resources[typeURL] = resources
		}
	}
	slices.Sort(versions)
	sum := sha256.Sum256([]byte(strings.Join(versions, "\n")))
	return polled, fmt.Sprintf("%d-%x", c.revision, sum[:8])
}
