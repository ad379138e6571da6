// Package etcdstore is a tenantstore.Store in etcd: one embedded in this process, or a cluster elsewhere. Both go
// through the same client and the same code.
//
// # Layout
//
//	/tenantmesh/head                  the end of the audit chain; every transaction compares its revision and writes it
//	/tenantmesh/object/<kind>/<name>  an object, as JSON
//	/tenantmesh/event/<sequence>      an audit event, as JSON
//
// A transaction that expects a revision compares it with that of the head: objects, audit events and the compare are
// one etcd transaction, so nothing can be written between what a writer read and what it writes.
//
// # Concurrency
//
// A store may be used from many goroutines, and beside other processes on the same cluster.
//
// It imports tenantstore, ledger and etcd.
package etcdstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

const (
	headKey      = "/tenantmesh/head"
	objectPrefix = "/tenantmesh/object/"
	eventPrefix  = "/tenantmesh/event/"

	dialTimeout = 5 * time.Second
	startTime   = 60 * time.Second
	firstAnswer = 30 * time.Second // on a slow disk the first transaction waits for the election
	maxOps      = 16384            // operations of one transaction
	maxRequest  = 64 << 20         // bytes of one transaction
	quota       = 8 << 30          // bytes
)

// Config says where the etcd is. Exactly one of DataDir and Endpoints is set.
type Config struct {
	DataDir   string   // embedded: where it keeps its files, and its sockets
	Endpoints []string // elsewhere: "https://host:2379", ...
	CA        string   // files, for Endpoints
	Cert      string
	Key       string
	Log       *zap.Logger
}

// Store is a store in etcd.
type Store struct {
	client *clientv3.Client
	server *embedded // nil for a cluster elsewhere
	mirror mirror
	stop   context.CancelFunc // of the mirror
	done   chan struct{}      // closed once it has stopped
}

// mirrorPatience is how long a snapshot waits for the mirror to see the newest revision before it reads everything.
const mirrorPatience = 500 * time.Millisecond

// Open connects, and starts the embedded etcd first when that is what is configured.
func Open(ctx context.Context, config Config) (*Store, error) {
	if (config.DataDir == "") == (len(config.Endpoints) == 0) {
		return nil, errors.New("exactly one of the data directory and the etcd endpoints must be set")
	}
	if config.Log == nil {
		config.Log = zap.NewNop()
	}
	s := &Store{mirror: mirror{changed: make(chan struct{})}}
	client := clientv3.Config{
		Endpoints: config.Endpoints, DialTimeout: dialTimeout, Context: context.WithoutCancel(ctx), Logger: config.Log.Named("etcd-client"),
		MaxCallSendMsgSize: maxRequest, MaxCallRecvMsgSize: 4 * maxRequest, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
	}
	if config.CA+config.Cert+config.Key != "" {
		info := transport.TLSInfo{TrustedCAFile: config.CA, CertFile: config.Cert, KeyFile: config.Key}
		tls, err := info.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("etcd TLS files: %w", err)
		}
		client.TLS = tls
	}
	if config.DataDir != "" {
		server, endpoint, err := startEmbedded(ctx, config)
		if err != nil {
			return nil, err
		}
		s.server, client.Endpoints = server, []string{endpoint}
	}
	var err error
	if s.client, err = clientv3.New(client); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	// The head exists before anything is compared with it.
	check, cancel := context.WithTimeout(ctx, firstAnswer)
	defer cancel()
	_, err = s.client.Txn(check).If(clientv3.Compare(clientv3.Version(headKey), "=", 0)).Then(clientv3.OpPut(headKey, "{}")).Commit()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("etcd at %v does not answer: %w", client.Endpoints, err), s.Close())
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.mirror.follow(ctx, s)
	}()
	return s, nil
}

// Apply implements [tenantstore.Store].
func (s *Store) Apply(ctx context.Context, tx tenantstore.Transaction) (tenantstore.Revision, error) {
	current, err := s.client.Get(ctx, headKey)
	if err != nil {
		return 0, err
	}
	if len(current.Kvs) == 0 || current.Kvs[0].ModRevision != tx.Expect {
		return 0, tenantstore.ErrConflict
	}
	var head ledger.Head
	if err := json.Unmarshal(current.Kvs[0].Value, &head); err != nil {
		return 0, fmt.Errorf("%s: %w", headKey, err)
	}
	compare := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(headKey), "=", tx.Expect)}
	var ops []clientv3.Op
	for _, object := range tx.Put {
		text, err := json.Marshal(object)
		if err != nil {
			return 0, err
		}
		ops = append(ops, clientv3.OpPut(objectKey(object.Key()), string(text)))
	}
	for _, key := range tx.Delete {
		compare = append(compare, clientv3.Compare(clientv3.Version(objectKey(key)), ">", 0))
		ops = append(ops, clientv3.OpDelete(objectKey(key)))
	}
	for _, event := range tx.Events {
		event, head = head.Seal(event)
		text, err := json.Marshal(event)
		if err != nil {
			return 0, err
		}
		ops = append(ops, clientv3.OpPut(eventKey(event.Sequence), string(text)))
	}
	text, err := json.Marshal(head)
	if err != nil {
		return 0, err
	}
	ops = append(ops, clientv3.OpPut(headKey, string(text)))
	if len(ops) > maxOps {
		return 0, tenantstore.ErrTooLarge
	}
	response, err := s.client.Txn(ctx).If(compare...).Then(ops...).Commit()
	if err != nil {
		if errors.Is(err, rpctypes.ErrTooManyOps) || errors.Is(err, rpctypes.ErrRequestTooLarge) {
			return 0, tenantstore.ErrTooLarge
		}
		return 0, err
	}
	if response.Succeeded {
		return response.Header.Revision, nil
	}
	return 0, s.whyNot(ctx, tx)
}

// whyNot tells a delete of nothing from a store that went on.
func (s *Store) whyNot(ctx context.Context, tx tenantstore.Transaction) error {
	snapshot, err := s.Snapshot(ctx)
	if err != nil {
		return err
	}
	if snapshot.Revision == tx.Expect {
		for _, key := range tx.Delete {
			if snapshot.Objects[key] == nil {
				return fmt.Errorf("delete %v: %w", key, tenantstore.ErrNotFound)
			}
		}
	}
	return tenantstore.ErrConflict
}

// Snapshot implements [tenantstore.Store]. Its revision is that of the last Apply, whatever else is in the cluster. It
// is as new as the cluster is when it is called: the mirror is asked for no less than the head that is read here.
func (s *Store) Snapshot(ctx context.Context) (tenantstore.Snapshot, error) {
	head, err := s.client.Get(ctx, headKey)
	if err != nil {
		return tenantstore.Snapshot{}, err
	}
	if len(head.Kvs) > 0 {
		if snapshot, ok := s.mirror.at(ctx, head.Kvs[0].ModRevision, mirrorPatience); ok {
			return snapshot, nil
		}
	}
	return s.read(ctx)
}

// read reads everything.
func (s *Store) read(ctx context.Context) (tenantstore.Snapshot, error) {
	response, err := s.client.Txn(ctx).Then(clientv3.OpGet(headKey), clientv3.OpGet(objectPrefix, clientv3.WithPrefix())).Commit()
	if err != nil {
		return tenantstore.Snapshot{}, err
	}
	head, objects := response.Responses[0].GetResponseRange(), response.Responses[1].GetResponseRange()
	if len(head.Kvs) == 0 {
		return tenantstore.Snapshot{}, fmt.Errorf("%s is gone", headKey)
	}
	snapshot := tenantstore.Snapshot{Revision: head.Kvs[0].ModRevision, Objects: make(map[tenantstore.Key]*tenantstore.Object, len(objects.Kvs))}
	for _, kv := range objects.Kvs {
		object, err := decode(kv.Key, kv.Value, kv.ModRevision)
		if err != nil {
			return tenantstore.Snapshot{}, err
		}
		snapshot.Objects[object.Key()] = object
	}
	return snapshot, nil
}

// Watch implements [tenantstore.Store].
func (s *Store) Watch(ctx context.Context, after tenantstore.Revision) (<-chan tenantstore.Change, error) {
	ctx, cancel := context.WithCancel(ctx)
	watch := s.client.Watch(clientv3.WithRequireLeader(ctx), "/tenantmesh/", clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithCreatedNotify())
	created, ok := <-watch
	if !ok || created.Err() != nil {
		cancel()
		if created.CompactRevision > 0 {
			return nil, tenantstore.ErrCompacted
		}
		return nil, errors.Join(errors.New("the watch could not be made"), created.Err())
	}
	out := make(chan tenantstore.Change)
	go func() {
		defer close(out)
		defer cancel()
		send := func(change tenantstore.Change) bool {
			select {
			case out <- change:
				return true
			case <-ctx.Done():
				return false
			}
		}
		for response := range watch {
			if err := response.Err(); err != nil {
				if response.CompactRevision > 0 {
					err = tenantstore.ErrCompacted
				}
				send(tenantstore.Change{Err: err})
				return
			}
			for _, change := range changes(response.Events) {
				if !send(change) || change.Err != nil {
					return
				}
			}
		}
	}()
	return out, nil
}

// changes groups events by their revision: one Apply each.
func changes(events []*clientv3.Event) []tenantstore.Change {
	var list []tenantstore.Change
	for _, event := range events {
		if len(list) == 0 || list[len(list)-1].Revision != event.Kv.ModRevision {
			list = append(list, tenantstore.Change{Revision: event.Kv.ModRevision})
		}
		change := &list[len(list)-1]
		name, ok := strings.CutPrefix(string(event.Kv.Key), objectPrefix)
		switch {
		case !ok:
		case event.Type == clientv3.EventTypeDelete:
			kind, name, _ := strings.Cut(name, "/")
			change.Delete = append(change.Delete, tenantstore.Key{Kind: tenantstore.Kind(kind), Name: name})
		default:
			object, err := decode(event.Kv.Key, event.Kv.Value, event.Kv.ModRevision)
			if err != nil {
				change.Err = err
				continue
			}
			change.Put = append(change.Put, object)
		}
	}
	return list
}

func decode(key, value []byte, revision int64) (*tenantstore.Object, error) {
	object := &tenantstore.Object{}
	if err := json.Unmarshal(value, object); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	object.Metadata.Revision = revision
	return object, nil
}

// Events implements [tenantstore.Store].
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]ledger.Event, error) {
	response, err := s.client.Get(ctx, eventKey(after+1), clientv3.WithRange(clientv3.GetPrefixRangeEnd(eventPrefix)), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return nil, err
	}
	events := make([]ledger.Event, len(response.Kvs))
	for i, kv := range response.Kvs {
		if err := json.Unmarshal(kv.Value, &events[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
	}
	return events, nil
}

// Head implements [tenantstore.Store].
func (s *Store) Head(ctx context.Context) (head ledger.Head, err error) {
	response, err := s.client.Get(ctx, headKey)
	if err != nil {
		return head, err
	}
	if len(response.Kvs) == 0 {
		return head, fmt.Errorf("%s is gone", headKey)
	}
	return head, json.Unmarshal(response.Kvs[0].Value, &head)
}

// Compact forgets the changes up to now.
func (s *Store) Compact(ctx context.Context) error {
	now, err := s.client.Get(ctx, headKey)
	if err != nil {
		return err
	}
	_, err = s.client.Compact(ctx, now.Header.Revision)
	return err
}

// leadTTL is how long a lead outlives its leader, in seconds.
const leadTTL = 5

// Lead implements [tenantstore.Store].
func (s *Store) Lead(ctx context.Context, name string, work func(context.Context) error) error {
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leadTTL), concurrency.WithContext(ctx))
	if err != nil {
		return err
	}
	election := concurrency.NewElection(session, "/leads/"+name)
	if err := election.Campaign(ctx, "leads"); err != nil {
		return errors.Join(err, session.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-session.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return errors.Join(work(ctx), session.Close())
}

// livePrefix is where the control planes that are present have their keys.
const livePrefix = "/controls/"

// Present implements [tenantstore.Store].
func (s *Store) Present(ctx context.Context, id string) error {
	for ctx.Err() == nil {
		session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leadTTL))
		if err == nil {
			if _, err = s.client.Put(ctx, livePrefix+id, "", clientv3.WithLease(session.Lease())); err == nil {
				select {
				case <-session.Done():
				case <-ctx.Done():
				}
			}
			_ = session.Close() // its lease ends by itself if this does not reach the store
		}
		select {
		case <-ctx.Done():
		case <-time.After(mirrorRetry):
		}
	}
	return nil
}

// Live implements [tenantstore.Store].
func (s *Store) Live(ctx context.Context) ([]string, error) {
	response, err := s.client.Get(ctx, livePrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(response.Kvs))
	for i, kv := range response.Kvs {
		ids[i] = strings.TrimPrefix(string(kv.Key), livePrefix)
	}
	return ids, nil
}

// Close implements [tenantstore.Store].
func (s *Store) Close() error {
	var err error
	if s.stop != nil {
		s.stop()
		<-s.done
	}
	if s.client != nil {
		err = s.client.Close()
	}
	if s.server != nil {
		err = errors.Join(err, s.server.stop())
	}
	return err
}

func objectKey(key tenantstore.Key) string { return objectPrefix + key.String() }

// eventKey sorts as the sequence does.
func eventKey(sequence int64) string { return fmt.Sprintf("%s%020d", eventPrefix, sequence) }
