// Command gohttp is a service that calls the next one: in turn, by goroutines that take their context along, and by goroutines that do not.
// With INSTRUMENTED set it has OpenTelemetry's handler and transport around it, and nothing else is another. With MIX set, too, it has a defect: it
// calls in the context of the request that came before.
//
// It knows no tenant. "mark" is the test's: what the next service is told by the mesh is compared with it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
)

type total struct {
	Proven  int `json:"proven"`
	Refused int `json:"refused"`
	Wrong   int `json:"wrong"`
}

func number(name string) int {
	n, _ := strconv.Atoi(os.Getenv(name))
	return n
}

func main() {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	client := &http.Client{Transport: transport}
	var handler http.Handler = work(client)
	if os.Getenv("INSTRUMENTED") != "" {
		otel.SetTextMapPropagator(propagation.TraceContext{})
		client.Transport = otelhttp.NewTransport(transport)
		handler = otelhttp.NewHandler(handler, "work")
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], handler)) //nolint:gosec // behind its sidecar
}

var latest atomic.Value // *context.Context

func work(client *http.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		mark := r.URL.Query().Get("mark")
		var sum total
		if r.Header.Get("X-Tenant-Id") != mark {
			sum.Wrong = 1
		}
		own := r.Context()
		if os.Getenv("MIX") != "" {
			mine := context.WithoutCancel(own)
			if before, ok := latest.Swap(&mine).(*context.Context); ok {
				own = *before
			}
		}
		var mu sync.Mutex
		var failed error
		add := func(ctx context.Context) {
			below, err := call(ctx, client, mark)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
			}
			sum.Proven, sum.Refused, sum.Wrong = sum.Proven+below.Proven, sum.Refused+below.Refused, sum.Wrong+below.Wrong
		}
		var group sync.WaitGroup
		for range number("TASKS") {
			group.Go(func() { add(own) })
		}
		for range number("BARE") {
			group.Go(func() { add(context.Background()) })
		}
		for range number("TURNS") {
			add(own)
		}
		group.Wait()
		if failed != nil {
			http.Error(w, failed.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(sum)
	}
}

func call(ctx context.Context, client *http.Client, mark string) (total, error) {
	var below total
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("NEXT")+"/work?mark="+url.QueryEscape(mark), nil)
	if err != nil {
		return below, err
	}
	response, err := client.Do(request)
	if err != nil {
		return below, err
	}
	defer response.Body.Close()
	switch reason := response.Header.Get("X-Tenantmesh-Reason"); {
	case response.StatusCode == http.StatusOK:
		err = json.NewDecoder(response.Body).Decode(&below)
		below.Proven++
		return below, err
	case response.StatusCode == http.StatusForbidden && reason != "":
		_, err = io.Copy(io.Discard, response.Body)
		return total{Refused: 1}, err
	default:
		return below, fmt.Errorf("%s %s", response.Status, reason)
	}
}
