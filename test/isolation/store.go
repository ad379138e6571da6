package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// fileStore is a store that documents calls, and nobody's sidecar is beside it: one of its buckets hangs.
type fileStore struct {
	port   int
	server *http.Server
	hung   atomic.Int64 // calls of the bucket that hangs
}

// hangs is how long the bucket's calls hang: longer than the documents' sidecar waits for it.
const hangs = 3 * time.Second

func startStore() (*fileStore, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &fileStore{port: listener.Addr().(*net.TCPAddr).Port}
	mux := http.NewServeMux()
	mux.HandleFunc("/good/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("a document")) })
	mux.HandleFunc("/hanging/", func(_ http.ResponseWriter, r *http.Request) {
		s.hung.Add(1)
		select {
		case <-time.After(hangs):
		case <-r.Context().Done():
		}
	})
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: hangs}
	go func() { _ = s.server.Serve(listener) }() // until it is closed
	return s, nil
}

func (s *fileStore) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*hangs)
	defer cancel()
	return errors.Join(s.server.Shutdown(ctx), s.server.Close())
}

// linked is the path of a document that lies in a bucket.
func (s *fileStore) linked(bucket string) string {
	at := url.URL{Scheme: "http", Host: (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.port}).String(), Path: "/" + bucket + "/x"}
	return "/documents/linked?at=" + url.QueryEscape(at.String())
}
