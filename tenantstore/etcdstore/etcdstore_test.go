package etcdstore

import (
	"testing"

	"github.com/tenantmesh/tenantmesh/tenantstore/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Compacter {
		store, err := Open(t.Context(), Config{DataDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

func TestSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	store, err := Open(t.Context(), Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := store.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	revision, err := store.Apply(t.Context(), storetest.Put(snapshot.Revision, storetest.Cell("us-1", "us")))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store, err = Open(t.Context(), Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if snapshot, err = store.Snapshot(t.Context()); err != nil || snapshot.Revision != revision || len(snapshot.Objects) != 1 {
		t.Errorf("after a restart: revision %d with %d objects, %v; want %d with 1", snapshot.Revision, len(snapshot.Objects), err, revision)
	}
}

func TestConfig(t *testing.T) {
	for _, config := range []Config{{}, {DataDir: "x", Endpoints: []string{"y"}}} {
		if _, err := Open(t.Context(), config); err == nil {
			t.Errorf("%+v opens", config)
		}
	}
}
