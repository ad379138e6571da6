package redisdedupe_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tenantmesh/tenantmesh/identity/propagation/dedupe"
	"github.com/tenantmesh/tenantmesh/identity/propagation/dedupe/redisdedupe"
	"github.com/tenantmesh/tenantmesh/identity/propagation/dedupe/storetest"
)

var _ dedupe.Store = &redisdedupe.Store{}

// start starts a Redis of the test's own, on a Unix socket.
func start(t *testing.T) (client *redis.Client, stop func()) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not in PATH: apt-get install redis-server")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "redis.sock")
	server := exec.CommandContext(t.Context(), path, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it says that it was killed
	})
	t.Cleanup(stop)
	client = redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	for began := time.Now(); client.Ping(t.Context()).Err() != nil; <-time.After(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("redis does not answer")
		}
	}
	return client, stop
}

// TestRedis: it keeps the contract of stores, for clients of one server together.
func TestRedis(t *testing.T) {
	client, _ := start(t)
	storetest.Run(t, &redisdedupe.Store{Client: client})
	other := redis.NewClient(client.Options())
	t.Cleanup(func() { _ = other.Close() })
	if first, err := (&redisdedupe.Store{Client: other}).PutIfAbsent(t.Context(), "once", time.Hour); err != nil || first {
		t.Errorf("another client does not see it: %v, %v", first, err)
	}
}

// TestKeys: a key stands under its prefix, and says until when.
func TestKeys(t *testing.T) {
	client, _ := start(t)
	for prefix, want := range map[string]string{"": redisdedupe.Prefix, "app:": "app:"} {
		store := &redisdedupe.Store{Client: client, Prefix: prefix}
		if first, err := store.PutIfAbsent(t.Context(), "k", dedupe.Time); !first || err != nil {
			t.Fatal(first, err)
		}
		if left := client.PTTL(t.Context(), want+"k").Val(); left > dedupe.Time || left < dedupe.Time-time.Minute {
			t.Errorf("%s ends in %v, want seven days", want, left)
		}
		if err := store.Remove(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	if _, err := (&redisdedupe.Store{Client: client}).PutIfAbsent(t.Context(), "k", time.Microsecond); err == nil || !strings.Contains(err.Error(), "1ms") {
		t.Errorf("a time that Redis does not know: %v", err)
	}
}

// TestDown: without Redis nothing is known, and that is an error, not a first time or a repetition.
func TestDown(t *testing.T) {
	client, stop := start(t)
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	store := &redisdedupe.Store{Client: client}
	if first, err := store.PutIfAbsent(ctx, "k", time.Hour); err == nil || first {
		t.Errorf("%v, %v", first, err)
	}
	if err := store.Remove(ctx, "k"); err == nil {
		t.Error("nothing was removed, and nothing is said")
	}
}
