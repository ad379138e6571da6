package server

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

// Poll returns what is published for a subject now.
func (c *Cache) Poll(subject Subject) Polled {
	c.mu.Lock()
	defer c.mu.Unlock()
	polled := Polled{Revision: c.revision, Resources: map[string]map[string]PolledResource{}}
	for typeURL, byAudience := range c.resources {
		resources := map[string]PolledResource{}
		for _, audience := range subject.Audiences {
			for name, e := range byAudience[audience] {
				resources[name] = PolledResource{e.resource.Version, e.resource.Resource.GetValue()}
			}
		}
		if len(resources) > 0 {
			polled.Resources[typeURL] = resources
		}
	}
	return polled
}
