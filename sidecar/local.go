package sidecar

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/sidecar/capture"
	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// names keeps the Workloads that the service may call in its hosts file; not hosts of Dependencies, which the Envoy beside
// must find by the same file.
func (s *sidecar) names(set *policyset.Set) {
	if s.config.HostsFile == "" || set == nil || set.Self == nil {
		return
	}
	addresses := maps.Clone(set.Self.Addresses)
	maps.DeleteFunc(addresses, func(name, _ string) bool {
		_, workload := set.Self.Dependencies["workload/"+name]
		return !workload
	})
	if err := capture.WriteHosts(s.config.HostsFile, addresses); err != nil {
		s.config.Log.Error("the hosts file could not be written: the service does not find the names that it may call", zap.Error(err))
	}
}

func (s *sidecar) servicePort(set *policyset.Set) int {
	if s.config.ServicePort != 0 {
		return s.config.ServicePort
	}
	return set.Self.ServicePort
}

// probeTime bounds a service's answer about its health.
const probeTime = 2 * time.Second

var prober = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// probe asks the service how it is, at the one path that was configured, for nobody: nothing of the caller's request goes
// on, and of the answer only its status comes back.
func (s *sidecar) probe(w http.ResponseWriter, r *http.Request) {
	set := s.sets.Load()
	if set == nil || set.Self == nil {
		http.Error(w, "no configuration has arrived yet", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), probeTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", s.servicePort(set), s.config.ProbePath), nil)
	if err != nil {
		http.Error(w, "the probe's path is not one", http.StatusInternalServerError)
		return
	}
	request.Header.Set("User-Agent", "tenantmesh-probe")
	response, err := prober.Do(request)
	if err != nil {
		http.Error(w, "the service does not answer", http.StatusServiceUnavailable)
		return
	}
	_ = response.Body.Close()
	w.WriteHeader(response.StatusCode)
}
