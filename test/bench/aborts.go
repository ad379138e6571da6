package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"text/tabwriter"
	"time"
)

// The two ways in which a server hears of a request and of its end.
const (
	byLog    = "ext_authz and the access log"
	byStream = "ext_proc"
)

// seen is what the floor has seen of one way or the other: requests, and their ends.
type seen struct{ begun, ended int64 }

// measureAborts sends requests of which half are hung up on within two milliseconds, and says what that costs by each of two
// ways, and whether each request that the server has heard of has its end.
func measureAborts(ctx context.Context, rounds, envoy int, floor *child, ports map[string]int, tokens []string) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "half of the requests hung up on\tCPU us a request, Envoy\tand beside it\trequests heard of\twhose end was not")
	for _, way := range []string{byLog, byStream} {
		var e, s []float64
		total := seen{}
		for range rounds {
			before, err := floor.seen(ctx, way)
			if err != nil {
				return err
			}
			e0, err := cpuOf(envoy)
			if err != nil {
				return err
			}
			s0, err := floor.cpu()
			if err != nil {
				return err
			}
			abort(ctx, ports[way], tokens)
			after, err := floor.settled(ctx, way)
			if err != nil {
				return err
			}
			e1, err := cpuOf(envoy)
			if err != nil {
				return err
			}
			s1, err := floor.cpu()
			if err != nil {
				return err
			}
			e, s = append(e, float64((e1-e0).Microseconds())/perRound), append(s, float64((s1-s0).Microseconds())/perRound)
			total.begun, total.ended = total.begun+after.begun-before.begun, total.ended+after.ended-before.ended
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%d\n", way, spread(e, "%.0f"), spread(s, "%.0f"), total.begun, max(0, total.begun-total.ended))
	}
	fmt.Fprintln(out)
	return out.Flush()
}

// abort sends a round of requests, half of which it hangs up on.
func abort(ctx context.Context, port int, tokens []string) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			for i := range perRound / inFlight {
				within, cancel := ctx, context.CancelFunc(func() {})
				if i%2 == 0 {
					within, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(2000))*time.Microsecond)
				}
				_ = get(within, client, port, tokens[i%len(tokens)]) // half of them end like that
				cancel()
			}
		})
	}
	wg.Wait()
}

// seen asks a floor for its counts.
func (c *child) seen(ctx context.Context, way string) (seen, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.socket+countsSuffix)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://floor/", nil)
	if err != nil {
		return seen{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return seen{}, err
	}
	defer response.Body.Close()
	var checks, entries, streams, ended int64
	if _, err := fmt.Fscan(response.Body, &checks, &entries, &streams, &ended); err != nil {
		return seen{}, err
	}
	if way == byLog {
		return seen{checks, entries}, nil
	}
	return seen{streams, ended}, nil
}

// settled waits until as many requests have ended as have begun, or for ten seconds.
func (c *child) settled(ctx context.Context, way string) (seen, error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		now, err := c.seen(ctx, way)
		if err != nil || now.ended >= now.begun || time.Now().After(deadline) {
			return now, err
		}
		select {
		case <-ctx.Done():
			return now, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
