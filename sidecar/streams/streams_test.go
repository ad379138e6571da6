package streams

import (
	"io"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extproc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/inflight"
)

// call is one of Envoy's, with what it asks.
type call struct {
	extproc.ExternalProcessor_ProcessServer
	asks []*extproc.ProcessingRequest
	got  []*extproc.ProcessingResponse
}

func (c *call) Recv() (*extproc.ProcessingRequest, error) {
	if len(c.asks) == 0 {
		return nil, io.EOF
	}
	next := c.asks[0]
	c.asks = c.asks[1:]
	return next, nil
}

func (c *call) Send(response *extproc.ProcessingResponse) error {
	c.got = append(c.got, response)
	return nil
}

// TestUnknown: what the process that asks does not know, as after a restart between the check and this, does not pass.
func TestUnknown(t *testing.T) {
	for what, headers := range map[string][]*core.HeaderValue{
		"a lease that is not known": {{Key: propagation.HeaderLease, RawValue: []byte("of-the-process-before")}},
		"no lease":                  nil,
	} {
		c := &call{asks: []*extproc.ProcessingRequest{{Request: &extproc.ProcessingRequest_RequestHeaders{RequestHeaders: &extproc.HttpHeaders{Headers: &core.HeaderMap{Headers: headers}}}}}}
		server := New(&decide.Decider{Config: decide.Config{InFlight: inflight.New(inflight.Options{})}}, zap.NewNop())
		if err := server.Process(c); err != nil {
			t.Fatal(err)
		}
		if len(c.got) != 1 || c.got[0].GetImmediateResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%s: %v", what, c.got)
		}
	}
}
