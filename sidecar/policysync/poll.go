package policysync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/sidecar/policyset"
)

// Poll says how to ask for what cannot be pushed, while the stream is down.
type Poll struct {
	Client *http.Client // with the mesh's identity
	URLs   []string     // of the control planes' resources, tried in turn; none: nobody is asked
}

// Polling waits: at first, at most. Each is jittered by half.
const (
	minPoll   = 2 * time.Second
	maxPoll   = 30 * time.Second
	pollTime  = 5 * time.Second // of one answer
	maxPolled = 256 << 20       // bytes of it
)

// poller remembers, for one outage, when to ask again, and what was answered. It begins without an answer, because a
// stream that broke may have brought a part of its revision only.
type poller struct {
	due  time.Time
	wait time.Duration
	next int    // URL
	tag  string // of what was taken, as the control plane of the URL names it
}

// poll asks, when it is due, for all that there is, and takes what is new of it by the way of what is pushed.
func (c *Client) poll(ctx context.Context, p *poller) {
	if now := time.Now(); len(c.Poll.URLs) == 0 || now.Before(p.due) {
		return
	}
	url := c.Poll.URLs[p.next%len(c.Poll.URLs)]
	err := c.ask(ctx, url, &p.tag)
	if err != nil {
		p.tag = ""
		p.next++
		p.wait = min(max(2*p.wait, minPoll), maxPoll)
		c.Log.Info("the control plane could not be polled either", zap.String("url", url), zap.Error(err))
	} else {
		p.wait = minPoll
	}
	p.due = time.Now().Add(p.wait/2 + rand.N(p.wait))
}

func (c *Client) ask(ctx context.Context, url string, tag *string) error {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if *tag != "" {
		request.Header.Set("If-None-Match", *tag)
	}
	asked := time.Now()
	response, err := c.Poll.Client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusNotModified:
		c.Sets.Heard(asked)
		c.note(asked)
		return nil
	case http.StatusOK:
	default:
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	var polled State
	if err := json.NewDecoder(io.LimitReader(response.Body, maxPolled)).Decode(&polled); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if polled.Revision < c.state.Revision {
		return fmt.Errorf("%s is at revision %d, and this sidecar has %d", url, polled.Revision, c.state.Revision)
	}
	if len(polled.Resources) == 0 {
		return errors.New("nothing is there for this sidecar")
	}
	for _, typeURL := range append(policyset.Types(), EnvoyTypes...) {
		if change := c.difference(typeURL, &polled); change != nil {
			c.take(change)
		}
	}
	*tag = response.Header.Get("ETag")
	c.save()
	c.Sets.Heard(asked)
	c.note(asked)
	return nil
}

// difference is what would be pushed to make the state of a type what was polled; nil for nothing.
func (c *Client) difference(typeURL string, polled *State) *discovery.DeltaDiscoveryResponse {
	response := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, SystemVersionInfo: strconv.FormatInt(polled.Revision, 10)}
	have, want := c.state.Resources[typeURL], polled.Resources[typeURL]
	for name, resource := range want {
		if old, ok := have[name]; !ok || old.Version != resource.Version {
			response.Resources = append(response.Resources, &discovery.Resource{Name: name, Version: resource.Version, Resource: resource.Any(typeURL)})
		}
	}
	for name := range have {
		if _, ok := want[name]; !ok {
			response.RemovedResources = append(response.RemovedResources, name)
		}
	}
	if len(response.Resources)+len(response.RemovedResources) == 0 {
		return nil
	}
	return response
}
