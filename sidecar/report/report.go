// Package report tells the control plane about this member: that it is here, whether it is ready, its signing key,
// what was used, and the decisions that someone asks about.
//
// It imports api, identity, ledger, sidecar/decisionlog and grpc.
package report

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
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
	Positions func(now time.Time) (positions []*api.Position, changed <-chan struct{})
	Zap       *zap.Logger
	// Certificate is the one that this member shows its peers.
	Certificate func() (*x509.Certificate, error)
	Pulse       func(now time.Time)                                // told each time that the control plane says it reaches its store
	Top         func(now time.Time) []*api.TopEntry                // who uses most; nil: nothing is said of it
	Audit       Audit                                              // nil: nothing is handed over
	Shadow      func() (report *api.ShadowReport, changes int64)   // what policies that are only watched would do, nil for none, and a number that grows with it; nil: nothing is said of it
	Uses        func() (report *api.UseReport, changes int64)      // which policies permitted something, nil for none; as Shadow
	Coverage    func() (report *api.CoverageReport, changes int64) // how tenants were proven, nil for nothing; as Shadow
}

const (
	// A key lives longer than any outage of the control plane that a gateway is to outlive: the next one comes into force
	// on its word.
	keyLifetime   = 7 * 24 * time.Hour
	keyRenewal    = 24 * time.Hour
	keyInterval   = time.Minute // between two looks at the key's age
	usageInterval = 5 * time.Second
	topInterval   = time.Second
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 2 * time.Second
)

// Reporter keeps the reporting stream.
type Reporter struct {
	Config
	signs    func() bool            // whether this member may sign
	current  tenanttoken.SigningKey // in force, when signer is set
	next     tenanttoken.SigningKey // published, or to be published, and not in force yet; zero: none
	signer   atomic.Pointer[tenanttoken.Signer]
	sequence int64 // of the newest batch
	handed   int64 // sequence of audit events that were sent, and not acknowledged; 0: none
	welcomed bool  // the control plane has said which batch it counted last

	leaving chan chan error

	mu      sync.Mutex
	ready   bool
	changed chan struct{}
	batch   *api.UsageBatch // sent, and not acknowledged
}

// New returns a reporter. A signing key that was in force before is so at once: whoever may verify it has it.
func New(config Config, signs func() bool, now time.Time) (*Reporter, error) {
	r := &Reporter{Config: config, signs: signs, leaving: make(chan chan error), changed: make(chan struct{}), sequence: now.UnixMicro()}
	key, err := tenanttoken.LoadKey(r.path(inForce))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case now.Before(key.NotAfter):
		if err := r.enforce(key); err != nil {
			return nil, err
		}
	}
	return r, r.look(now)
}

// The files of the keys: one signs, the other will.
const (
	inForce = "signing-key.json"
	coming  = "signing-key.next.json"
)

func (r *Reporter) path(name string) string { return filepath.Join(r.Dir, name) }

func (r *Reporter) enforce(key tenanttoken.SigningKey) error {
	signer, err := tenanttoken.NewSigner(key, r.Principal)
	if err == nil {
		r.current = key
		r.signer.Store(signer)
	}
	return err
}

// look makes the next key when there is none in force, or the one in force ages. That one signs until every sidecar
// has the next.
func (r *Reporter) look(now time.Time) (err error) {
	if r.Signer() != nil && r.current.NotAfter.Sub(now) > keyLifetime-keyRenewal {
		return nil
	}
	r.next, err = tenanttoken.LoadOrCreateKey(r.path(coming), keyLifetime, now)
	return err
}

// keyInForce puts the next key in force: every sidecar has it.
func (r *Reporter) keyInForce(kid string) error {
	if kid != r.next.KID {
		return nil
	}
	if err := os.Rename(r.path(coming), r.path(inForce)); err != nil {
		return err
	}
	err := r.enforce(r.next)
	r.next = tenanttoken.SigningKey{}
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

// Fingerprint is a certificate as peers know it: the SHA-256 of its DER form, hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Rotated says that this member shows another certificate from now on.
func (r *Reporter) Rotated() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// sendCertificate tells of the certificate that is shown, unless it is the one that was said.
func (r *Reporter) sendCertificate(stream api.MemberService_ReportClient, said string) (string, error) {
	shown, err := r.Certificate()
	if err != nil || Fingerprint(shown) == said {
		return said, err
	}
	said = Fingerprint(shown)
	return said, stream.Send(&api.MemberReport{Report: &api.MemberReport_Certificate{Certificate: &api.Certificate{Sha256: said, NotAfter: timestamppb.New(shown.NotAfter)}}})
}

// Run keeps the stream until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	backoff := minBackoff
	for {
		began := time.Now()
		err := r.stream(ctx)
		if ctx.Err() != nil || errors.Is(err, errLeft) {
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
	top := time.NewTicker(topInterval)
	defer top.Stop()
	topped := false // something was said of who uses most
	age := time.NewTicker(keyInterval)
	defer age.Stop()
	published, said, shown, watched, used, covered := "", false, "", int64(-1), int64(-1), int64(-1)
	r.welcomed, r.handed = false, 0
	positions := positions{stream: stream, report: r.Positions, said: map[string]*api.Position{}}
	for first := true; ; first = false {
		moved, soon, err := positions.send(time.Now())
		if err != nil {
			return err
		}
		r.mu.Lock()
		ready, changed := r.ready, r.changed
		r.mu.Unlock()
		if shown, err = r.sendCertificate(stream, shown); err != nil {
			return err
		}
		if first || ready != said {
			said = ready
			if err := stream.Send(&api.MemberReport{Report: &api.MemberReport_Readiness{Readiness: &api.Readiness{Ready: ready}}}); err != nil {
				return err
			}
		}
		if r.next.KID != published && r.next.KID != "" && r.signs() {
			published = r.next.KID
			if err := stream.Send(&api.MemberReport{Report: &api.MemberReport_PublishKey{PublishKey: &api.PublishKey{
				Kid: r.next.KID, PublicKey: r.next.Public(), NotAfter: timestamppb.New(r.next.NotAfter),
			}}}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-moved:
		case <-soon:
		case <-look.C:
			if r.next.KID == published {
				look.Stop()
			}
		case now := <-age.C:
			if err := r.look(now); err != nil {
				return err
			}
		case <-usage.C:
			if err := r.sendUsage(stream); err != nil {
				return err
			}
			if err := r.sendAudit(stream); err != nil {
				return err
			}
			if watched, err = say(stream, r.Shadow, watched, shadowReport); err != nil {
				return err
			}
			if used, err = say(stream, r.Uses, used, useReport); err != nil {
				return err
			}
			if covered, err = say(stream, r.Coverage, covered, coverageReport); err != nil {
				return err
			}
		case now := <-top.C:
			if topped, err = r.sendTop(stream, now, topped); err != nil {
				return err
			}
		case done := <-r.leaving:
			done <- leave(stream, messages, failed)
			return errLeft
		case message := <-messages:
			if err := r.heard(stream, message); err != nil {
				return err
			}
		case err := <-failed:
			return err
		}
	}
}

// errLeft ends the stream of a member that left.
var errLeft = errors.New("this member has left the mesh")

// Leave tells the control plane that this member has drained and is gone for good: moves need not wait for it, and it
// may not serve again by what its disk remembers. It returns once the control plane has noted it.
func (r *Reporter) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.leaving <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func leave(stream api.MemberService_ReportClient, messages <-chan *api.ControlMessage, failed <-chan error) error {
	err := stream.Send(&api.MemberReport{Report: &api.MemberReport_Leave{Leave: &api.Leave{}}})
	if err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		select {
		case <-messages: // nobody is here to answer any more
		case err := <-failed:
			if errors.Is(err, io.EOF) { // the other side noted everything before it closed too
				return nil
			}
			return err
		}
	}
}

// positions sends what changed of the positions over one stream.
type positions struct {
	stream api.MemberService_ReportClient
	report func(now time.Time) ([]*api.Position, <-chan struct{})
	said   map[string]*api.Position
}

// drainInterval is how often an open drain is looked at.
const drainInterval = 20 * time.Millisecond

// send says what is new. The next look is due once moved is closed, or when soon comes: nil when nothing drains.
func (p *positions) send(now time.Time) (moved <-chan struct{}, soon <-chan time.Time, err error) {
	list, moved := p.report(now)
	for _, position := range list {
		if !position.Drained {
			soon = time.After(drainInterval)
		}
		if said := p.said[position.Tenant]; proto.Equal(said, position) {
			continue
		}
		p.said[position.Tenant] = position
		if err := p.stream.Send(&api.MemberReport{Report: &api.MemberReport_Position{Position: position}}); err != nil {
			return nil, nil, err
		}
	}
	return moved, soon, nil
}

func (r *Reporter) sendUsage(stream api.MemberService_ReportClient) error {
	if !r.welcomed {
		return nil
	}
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
				BytesReceived: u.BytesReceived, BytesSent: u.BytesSent, Duration: durationpb.New(u.Duration), Refused: u.Refused, Errors: u.Errors,
				UnderShare: u.UnderShare, UnderShareRefused: u.UnderShareRefused, UnderShareLate: u.UnderShareLate,
			})
		}
	}
	return stream.Send(&api.MemberReport{Report: &api.MemberReport_Usage{Usage: r.batch}})
}

// sendTop says who uses most, and once that nobody does any more.
func (r *Reporter) sendTop(stream api.MemberService_ReportClient, now time.Time, said bool) (bool, error) {
	if r.Top == nil {
		return false, nil
	}
	list := r.Top(now)
	if len(list) == 0 && !said {
		return false, nil
	}
	return len(list) > 0, stream.Send(&api.MemberReport{Report: &api.MemberReport_Top{Top: &api.Top{Tenants: list}}})
}

// say sends a report of what is counted, if it is another than was said: changes tell. nil for nothing to say, or nobody who counts.
func say[T any](stream api.MemberService_ReportClient, counted func() (*T, int64), said int64, report func(*T) *api.MemberReport) (int64, error) {
	if counted == nil {
		return said, nil
	}
	text, changes := counted()
	if text == nil || changes == said {
		return said, nil
	}
	return changes, stream.Send(report(text))
}

func shadowReport(s *api.ShadowReport) *api.MemberReport {
	return &api.MemberReport{Report: &api.MemberReport_Shadow{Shadow: s}}
}

func useReport(u *api.UseReport) *api.MemberReport {
	return &api.MemberReport{Report: &api.MemberReport_Uses{Uses: u}}
}

func coverageReport(c *api.CoverageReport) *api.MemberReport {
	return &api.MemberReport{Report: &api.MemberReport_Coverage{Coverage: c}}
}

func (r *Reporter) heard(stream api.MemberService_ReportClient, message *api.ControlMessage) error {
	switch m := message.Message.(type) {
	case *api.ControlMessage_KeyInForce:
		return r.keyInForce(m.KeyInForce.Kid)
	case *api.ControlMessage_UsageAck:
		if r.batch != nil && m.UsageAck.Sequence == r.batch.Sequence {
			r.batch = nil
		}
	case *api.ControlMessage_AuditAck:
		return r.auditAcked(stream, m.AuditAck.Sequence)
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
	case *api.ControlMessage_Pulse:
		r.Pulse(time.Now())
	case *api.ControlMessage_Welcome:
		r.sequence, r.welcomed = max(r.sequence, m.Welcome.UsageSequence), true // the clock may have gone back since
		r.Zap.Info("welcomed by the control plane", zap.String("role", m.Welcome.Role), zap.String("cell", m.Welcome.Cell), zap.String("workload", m.Welcome.Workload))
	}
	return nil
}
