// Package report tells the control plane about this member: that it is here, whether it is ready, its signing key,
// what was used, and the decisions that someone asks about.
//
// It imports api, identity, ledger, sidecar/decisionlog and grpc.
package report

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	api "github.com/tenantmesh/tenantmesh/api/tenantmesh/v1alpha1"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/tenanttoken"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/sidecar/decisionlog"
)

// Config says what a reporter stands on.
type Config struct {
	Conn      *grpc.ClientConn
	Hello     *api.Hello
	Principal identity.Principal
	Dir       string // keeps the signing key, and which one is in force
	Log       *decisionlog.Log
	Meter     *ledger.Meter
	Zap       *zap.Logger
}

const (
	keyLifetime   = 24 * time.Hour
	usageInterval = 5 * time.Second
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 2 * time.Second
)

// Reporter keeps the reporting stream.
type Reporter struct {
	Config
	key      tenanttoken.SigningKey
	signer   atomic.Pointer[tenanttoken.Signer]
	signs    func() bool // whether this member may sign
	sequence int64

	mu      sync.Mutex
	ready   bool
	changed chan struct{}
	batch   *api.UsageBatch // sent, and not acknowledged
}

// New returns a reporter. A signing key that was in force before is so at once: whoever may verify it has it.
func New(config Config, signs func() bool) (*Reporter, error) {
	r := &Reporter{Config: config, signs: signs, changed: make(chan struct{}), sequence: time.Now().UnixMicro()}
	var err error
	if r.key, err = tenanttoken.LoadOrCreateKey(filepath.Join(config.Dir, "signing-key.json"), keyLifetime, time.Now()); err != nil {
		return nil, err
	}
	if kid, err := os.ReadFile(r.marker()); err == nil && string(kid) == r.key.KID {
		return r, r.enforce()
	}
	return r, nil
}

func (r *Reporter) marker() string { return filepath.Join(r.Dir, "signing-key.in-force") }

func (r *Reporter) enforce() error {
	signer, err := tenanttoken.NewSigner(r.key, r.Principal)
	if err == nil {
		r.signer.Store(signer)
	}
	return err
}

// Signer signs under the key in force; nil while there is none.
func (r *Reporter) Signer() *tenanttoken.Signer { return r.signer.Load() }

// SetReady says whether this member's workload answers.
func (r *Reporter) SetReady(ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready != ready {
		r.ready = ready
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// Run keeps the stream until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	backoff := minBackoff
	for {
		began := time.Now()
		err := r.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		r.Zap.Warn("the reporting stream broke", zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff/2 + rand.N(backoff)):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (r *Reporter) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.NewMemberServiceClient(r.Conn).Report(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&api.MemberReport{Report: &api.MemberReport_Hello{Hello: r.Hello}}); err != nil {
		return err
	}
	messages, failed := make(chan *api.ControlMessage), make(chan error, 1)
	go func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- message:
			case <-ctx.Done():
				return
			}
		}
	}()
	// The key may be published only once it is known whether this member signs, which the configuration says.
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	usage := time.NewTicker(usageInterval)
	defer usage.Stop()
	published, said := false, false
	for first := true; ; first = false {
		r.mu.Lock()
		ready, changed := r.ready, r.changed
		r.mu.Unlock()
		if first || ready != said {
			said = ready
			if err := stream.Send(&api.MemberReport{Report: &api.MemberReport_Readiness{Readiness: &api.Readiness{Ready: ready}}}); err != nil {
				return err
			}
		}
		if !published && r.signs() {
			published = true
			look.Stop()
			if err := stream.Send(&api.MemberReport{Report: &api.MemberReport_PublishKey{PublishKey: &api.PublishKey{
				Kid: r.key.KID, PublicKey: r.key.Public(), NotAfter: timestamppb.New(r.key.NotAfter),
			}}}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-look.C:
		case <-usage.C:
			if err := r.sendUsage(stream); err != nil {
				return err
			}
		case message := <-messages:
			if err := r.heard(stream, message); err != nil {
				return err
			}
		case err := <-failed:
			return err
		}
	}
}

func (r *Reporter) sendUsage(stream api.MemberService_ReportClient) error {
	if r.batch == nil {
		records := r.Meter.Take()
		if len(records) == 0 {
			return nil
		}
		r.sequence++
		r.batch = &api.UsageBatch{Sequence: r.sequence}
		for _, u := range records {
			r.batch.Records = append(r.batch.Records, &api.UsageRecord{
				Minute: timestamppb.New(u.Minute), Tenant: u.Tenant, TenantUid: u.TenantUID, Workload: u.Workload, Class: u.Class, Requests: u.Requests,
				BytesReceived: u.BytesReceived, BytesSent: u.BytesSent, Duration: durationpb.New(u.Duration), Refused: u.Refused,
			})
		}
	}
	return stream.Send(&api.MemberReport{Report: &api.MemberReport_Usage{Usage: r.batch}})
}

func (r *Reporter) heard(stream api.MemberService_ReportClient, message *api.ControlMessage) error {
	switch m := message.Message.(type) {
	case *api.ControlMessage_KeyInForce:
		if m.KeyInForce.Kid != r.key.KID {
			return nil
		}
		if err := r.enforce(); err != nil {
			return err
		}
		return os.WriteFile(r.marker(), []byte(r.key.KID), 0o600)
	case *api.ControlMessage_UsageAck:
		if r.batch != nil && m.UsageAck.Sequence == r.batch.Sequence {
			r.batch = nil
		}
	case *api.ControlMessage_Explain:
		answer := &api.Explanation{DecisionId: m.Explain.DecisionId}
		if decision, ok := r.Log.Find(answer.DecisionId); ok {
			text, err := json.Marshal(decision)
			if err != nil {
				return err
			}
			answer.Found, answer.Json = true, string(text)
		}
		return stream.Send(&api.MemberReport{Report: &api.MemberReport_Explanation{Explanation: answer}})
	case *api.ControlMessage_Welcome:
		r.Zap.Info("welcomed by the control plane", zap.String("role", m.Welcome.Role), zap.String("cell", m.Welcome.Cell), zap.String("workload", m.Welcome.Workload))
	}
	return nil
}
