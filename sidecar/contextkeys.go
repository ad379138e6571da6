package sidecar

import (
	"encoding/json"
	"net/http"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
)

// contextKeys tells the service by which keys it may verify the contexts that it gets. They are public.
func (s *sidecar) contextKeys(w http.ResponseWriter, _ *http.Request) {
	set := s.sets.Load()
	if set == nil || set.Self == nil {
		http.Error(w, "no configuration has arrived yet", http.StatusServiceUnavailable)
		return
	}
	text, err := json.Marshal(propagation.ContextKeys{TrustDomain: set.Self.TrustDomain, Keys: set.Keys})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}
