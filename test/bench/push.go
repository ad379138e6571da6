package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/control"
	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid/devca"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
)

const (
	benchDomain = "bench.example"
	pushWait    = 60 // seconds that a change may take to be in force everywhere
	loadBatch   = 500
)

const pushMesh = `
apiVersion: tenantmesh.dev/v1alpha1
kind: Cell
metadata: {name: us-1}
spec: {region: us, capacity: {freeCpu: 0.9, freeDbConn: 1000000, dbConnCap: 1000000}}
---
apiVersion: tenantmesh.dev/v1alpha1
kind: Workload
metadata: {name: front}
spec: {expose: [{pathPrefix: /}]}
`

// plane is a control plane in this process, with its store in memory, and a development CA.
type plane struct {
	dir   string
	xds   string
	ca    *devca.Client
	admin *adminclient.Client
	store tenantstore.Store
	stop  func()
}

func newPlane(ctx context.Context, dir string, tenants int) (*plane, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &plane{dir: dir, store: memstore.New()}
	socket := filepath.Join(dir, "ca.sock")
	ended := make(chan error, 2)
	p.stop = func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				fmt.Fprintln(os.Stderr, "at the end:", err)
			}
		}
	}
	up := make(chan struct{})
	go func() {
		ended <- devca.Run(ctx, devca.Config{Socket: socket, DataDir: filepath.Join(dir, "ca"), TrustDomain: benchDomain, Log: zap.NewNop()}, func() { close(up) })
	}()
	if err := first(ended, up); err != nil {
		return nil, err
	}
	p.ca = devca.NewClient(socket)
	id, err := identity.ControlID(benchDomain)
	if err == nil {
		err = p.ca.Register(ctx, devca.Registration{ID: id, PID: os.Getpid(), UID: os.Getuid()})
	}
	if err == nil {
		err = p.fill(ctx, tenants)
	}
	if err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	go func() {
		ended <- control.Run(ctx, control.Config{
			DataDir: filepath.Join(dir, "control"), TrustDomain: benchDomain, WorkloadAPI: "unix://" + socket, XDSAddress: "127.0.0.1:0", Store: p.store, Log: zap.NewNop(),
		}, func(a control.Addresses) {
			p.xds, p.admin = a.XDS, adminclient.New(a.AdminSocket)
			close(ready)
		})
	}()
	return p, first(ended, ready)
}

func first(ended <-chan error, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case err := <-ended:
		return err
	}
}

func decodeObjects(text string) ([]*tenantstore.Object, error) {
	documents, err := tenantstore.DecodeYAML("bench", strings.NewReader(text))
	list := make([]*tenantstore.Object, len(documents))
	for i, d := range documents {
		list[i] = d.Object
	}
	return list, err
}

func benchTenant(i int, suspended bool) string {
	return fmt.Sprintf("---\napiVersion: tenantmesh.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t-%d}\nspec: {tier: bronze, region: us, suspended: %v}\n", i, suspended)
}

// fill puts the mesh and its tenants into the store.
func (p *plane) fill(ctx context.Context, tenants int) error {
	writer := tenantstore.NewWriter(p.store, time.Now)
	text := strings.Builder{}
	text.WriteString(pushMesh)
	for i := range tenants {
		text.WriteString(benchTenant(i, false))
		if (i+1)%loadBatch != 0 && i+1 != tenants {
			continue
		}
		objects, err := decodeObjects(text.String())
		if err == nil {
			_, err = writer.Apply(ctx, "bench", objects, tenantstore.ApplyOptions{})
		}
		if err != nil {
			return err
		}
		text.Reset()
	}
	return nil
}

// generate starts a load generator that holds n streams. whole is the bytes that came over all of them until each had
// everything.
func (p *plane) generate(ctx context.Context, n int, more ...string) (g *generator, whole int64, stop func(), err error) {
	id, err := identity.WorkloadID(benchDomain, "us-1", "front")
	if err != nil {
		return nil, 0, nil, err
	}
	return p.generateAs(ctx, id, n, more...)
}

// generateAs does so with streams of a principal.
func (p *plane) generateAs(ctx context.Context, id identity.Principal, n int, more ...string) (g *generator, whole int64, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-streams", fmt.Sprint(n), "-control", p.xds)
	cmd.Args = append(cmd.Args, more...)
	cmd.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+filepath.Join(p.dir, "ca.sock"))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, 0, nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	err = p.ca.Register(ctx, devca.Registration{ID: id, PID: cmd.Process.Pid, UID: os.Getuid()})
	g = &generator{in: in, out: bufio.NewScanner(out)}
	var line string
	if err == nil {
		line, err = g.line()
	}
	if err == nil && line != "ready" {
		err = fmt.Errorf("the load generator says %q", line)
	}
	if err == nil {
		whole, err = g.bytes()
	}
	if err != nil {
		stop()
	}
	return g, whole, stop, err
}

// change writes a tenant and returns how long it took until every stream had accepted it.
func (p *plane) change(ctx context.Context, suspended bool) (time.Duration, error) {
	objects, err := decodeObjects(benchTenant(7, suspended))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	applied, err := p.admin.Apply(ctx, objects, false)
	if err != nil {
		return 0, err
	}
	status, err := p.admin.Status(ctx, applied.Revision, true, pushWait)
	if err == nil && !status.Done() {
		err = fmt.Errorf("revision %d is in force at %d of %d", applied.Revision, status.Enforced, status.Total)
	}
	return time.Since(began), err
}

// figures are those of one size.
type figures struct {
	took  []float64 // ms to the last ACK
	cpu   []float64 // ms of this process a change, by round
	bytes float64   // a change and stream
	heap  float64   // KiB a stream
}

// changesARound are suspensions, each with its end.
const changesARound = 20

func (p *plane) figures(ctx context.Context, streams, rounds, changes int) (f figures, err error) {
	before := inUse()
	g, _, stop, err := p.generate(ctx, streams)
	if err != nil {
		return f, err
	}
	defer stop()
	f.heap = float64(inUse()-before) / 1024 / float64(streams)
	if _, err := g.bytes(); err != nil {
		return f, err
	}
	for range rounds {
		spent := selfCPU()
		for range changes {
			took, err := p.change(ctx, true) // a suspension waits for nothing
			if err == nil {
				_, err = p.change(ctx, false)
			}
			if err != nil {
				return f, err
			}
			f.took = append(f.took, float64(took.Microseconds())/1000)
		}
		f.cpu = append(f.cpu, float64((selfCPU()-spent).Microseconds())/1000/float64(2*changes))
	}
	bytes, err := g.bytes()
	f.bytes = float64(bytes) / float64(2*changes*rounds*streams)
	return f, err
}

// inUse is the heap and the stacks in use, in bytes.
func inUse() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}

func selfCPU() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // does not fail for oneself (getrusage(2))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// measurePush measures how long the suspension of a tenant takes from the command to the last ACK, at more streams and
// at more tenants; it waits for no other change, as most changes do for 50 ms. CPU and bytes are those of suspensions and
// their ends alike; bytes are those of the messages. Ratios are to the median of the smallest case of the run; in the column
// "to 100 tenants", to that of as many streams at 100 tenants.
func measurePush(ctx context.Context, rounds int) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "a tenant is suspended\tstreams\tms to the last ACK\tp99\tratio\tCPU ms a change\tratio\tto 100 tenants\tbytes a response\tKiB a stream")
	var base *figures
	few := map[int]figures{} // of 100 tenants, by streams
	for _, size := range pushSizes {
		err := withPlane(ctx, size.tenants, func(p *plane) error {
			for _, streams := range size.streams {
				f, err := p.figures(ctx, streams, rounds, changesARound)
				if err != nil {
					return fmt.Errorf("%d tenants, %d streams: %w", size.tenants, streams, err)
				}
				if base == nil {
					base = &f
				}
				if _, ok := few[streams]; !ok {
					few[streams] = f
				}
				sorted := slices.Sorted(slices.Values(f.took))
				fmt.Fprintf(out, "%d tenants\t%d\t%s\t%.1f\t%s\t%s\t%s\t%s\t%.0f\t%.0f\n", size.tenants, streams, spread(f.took, "%.1f"), sorted[(len(sorted)-1)*99/100],
					spread(over(f.took, median(base.took)), "%.1f"), spread(f.cpu, "%.2f"), spread(over(f.cpu, median(base.cpu)), "%.1f"),
					spread(over(f.cpu, median(few[streams].cpu)), "%.1f"), f.bytes, f.heap)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout)
	return measureMoves(ctx, rounds)
}

// pushSizes are what is measured; those of the fewest tenants first.
var pushSizes = []struct {
	tenants int
	streams []int
}{{100, []int{1, 10, 100, 1000}}, {manyTenants, []int{1, 10, 100}}}

// withPlane does work with a control plane that has so many tenants.
func withPlane(ctx context.Context, tenants int, work func(*plane) error) error {
	dir, err := os.MkdirTemp("", "push-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := newPlane(ctx, dir, tenants)
	if err != nil {
		return err
	}
	defer p.stop()
	return work(p)
}

// over are values as ratios to one.
func over(values []float64, base float64) []float64 {
	ratios := make([]float64, len(values))
	for i, v := range values {
		ratios[i] = v / base
	}
	return ratios
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
