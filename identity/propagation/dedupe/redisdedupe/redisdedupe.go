// Package redisdedupe keeps dedupe's digests in Redis, for several processes.
//
// Redis forgets what it must make room for, and a replica that takes over may lack what was written last (its replication is asynchronous): then an
// event is handled again. The keys want maxmemory-policy noeviction or volatile-ttl.
//
// It imports github.com/redis/go-redis/v9 and nothing of this module: its [Store] is a dedupe.Store.
package redisdedupe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Prefix begins the names of keys where nothing is said.
const Prefix = "tenantmesh:dedupe:"

// Store implements dedupe.Store. It may be used from many goroutines.
type Store struct {
	Client redis.Cmdable
	Prefix string // of keys; "": [Prefix]
}

// PutIfAbsent implements dedupe.Store: SET key 1 NX PX ttl.
func (s *Store) PutIfAbsent(ctx context.Context, key string, ttl time.Duration) (bool, error) {
	if ttl < time.Millisecond {
		return false, fmt.Errorf("ttl must be at least 1ms, Redis' shortest (got %v)", ttl) // 0 would be for ever
	}
	args := redis.SetArgs{Mode: "NX", TTL: ttl.Round(time.Millisecond)}
	err := s.Client.SetArgs(ctx, s.name(key), 1, args).Err()
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, redis.Nil): // it was there
		return false, nil
	default:
		return false, fmt.Errorf("redis: %w", err)
	}
}

// Remove implements dedupe.Store.
func (s *Store) Remove(ctx context.Context, key string) error {
	if err := s.Client.Del(ctx, s.name(key)).Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

func (s *Store) name(key string) string {
	if s.Prefix == "" {
		return Prefix + key
	}
	return s.Prefix + key
}
