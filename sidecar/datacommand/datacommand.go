// Package datacommand answers HOW DOES A TENANT'S DATA LEAVE a service that has no hooks for it: by commands that the
// sidecar's own configuration names. It is the service's side of a move, at the paths below meshname.PathTenantData; who
// may call it was decided before.
//
// A command gets the tenant's name in TENANTMESH_TENANT, and export writes to its standard output what import reads from
// its standard input: all of the tenant's data, always in the same order, because their digest is compared. A command
// ends with 0 when it has done all, and has changed nothing otherwise. No shell sees any of it.
//
// # Concurrency
//
// A [Handler] is an http.Handler. Commands that change data run one at a time, and a late one is refused by its fencing
// token, which is kept on the disk.
//
// It imports identity, identity/meshname, identity/propagation, sidecar/durable and zap.
package datacommand

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/meshname"
	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/durable"
)

// Commands are the commands, each a program and its arguments. Export and Import are needed to move a tenant; without
// Delete the source keeps its copy.
type Commands struct {
	Export []string `json:"export,omitempty"`
	Import []string `json:"import,omitempty"`
	Delete []string `json:"delete,omitempty"`
}

// endTime is how long a command that must end has before it is killed.
const endTime = 5 * time.Second

// maxTold is how much of what a command complains of is told, in bytes.
const maxTold = 1024

// Handler runs commands.
type Handler struct {
	commands Commands
	path     string // of the fencing tokens
	log      *zap.Logger

	mu     sync.Mutex // held while data changes
	fences map[string]int64
}

// New returns a handler, which keeps the fencing tokens that it has seen in the file at path.
func New(commands Commands, path string, log *zap.Logger) (*Handler, error) {
	h := &Handler{commands: commands, path: path, log: log, fences: map[string]int64{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &h.fences)
	}
	if err != nil {
		return nil, fmt.Errorf("the fencing tokens in %s: %w", path, err)
	}
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tenant, err := identity.ParseTenantID(r.Header.Get(propagation.HeaderTenantID))
	if err != nil {
		http.Error(w, "x-tenant-id: "+err.Error(), http.StatusBadRequest)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET " + meshname.PathTenantData:
		h.export(w, r, tenant)
	case "GET " + meshname.PathTenantData + "/digest":
		sum := sha256.New()
		if err := h.run(r.Context(), h.commands.Export, tenant, nil, sum); err != nil {
			h.fail(w, err)
			return
		}
		_, _ = io.WriteString(w, hex.EncodeToString(sum.Sum(nil)))
	case "PUT " + meshname.PathTenantData:
		h.change(w, r, h.commands.Import, tenant)
	case "DELETE " + meshname.PathTenantData:
		h.change(w, r, h.commands.Delete, tenant)
	default:
		http.NotFound(w, r)
	}
}

// export passes on what the command writes. When the command fails after that began, the answer is cut.
func (h *Handler) export(w http.ResponseWriter, r *http.Request, tenant identity.TenantID) {
	begun := &begun{w: w}
	w.Header().Set("content-type", "application/octet-stream")
	err := h.run(r.Context(), h.commands.Export, tenant, nil, begun)
	switch {
	case err == nil:
	case begun.yes:
		h.log.Error("an export failed half way", zap.Error(err))
		panic(http.ErrAbortHandler)
	default:
		h.fail(w, err)
	}
}

type begun struct {
	w   io.Writer
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.w.Write(p)
}

// change runs a command that changes data, unless a later one has run before.
func (h *Handler) change(w http.ResponseWriter, r *http.Request, command []string, tenant identity.TenantID) {
	token, err := strconv.ParseInt(r.Header.Get(propagation.HeaderFence), 10, 64)
	if err != nil {
		http.Error(w, propagation.HeaderFence+" must be an integer", http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if seen := h.fences[tenant.String()]; token < seen {
		http.Error(w, fmt.Sprintf("the fencing token must be at least %d (got %d): a later call came before", seen, token), http.StatusConflict)
		return
	}
	if err := h.remember(tenant, token); err != nil {
		h.fail(w, err)
		return
	}
	if err := h.run(r.Context(), command, tenant, r.Body, io.Discard); err != nil {
		h.fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *Handler) remember(tenant identity.TenantID, token int64) error {
	h.fences[tenant.String()] = token
	text, err := json.Marshal(h.fences)
	if err != nil {
		return err
	}
	return durable.WriteFile(h.path, text)
}

func (h *Handler) fail(w http.ResponseWriter, err error) {
	h.log.Error("a command that moves data failed", zap.Error(err))
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// run runs a command to its end. When ctx ends first, the command is told to end, and then made to: it is over when run
// returns.
func (h *Handler) run(ctx context.Context, command []string, tenant identity.TenantID, in io.Reader, out io.Writer) error {
	if len(command) == 0 {
		return errors.New("the sidecar's configuration names no command for this in dataCommands")
	}
	whole := &reading{source: in}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "TENANTMESH_TENANT="+tenant.String())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &limited{&complaints, maxTold}
	if in != nil {
		cmd.Stdin = whole
	}
	err := cmd.Run()
	if whole.err != nil {
		err = errors.Join(whole.err, err) // the command saw an end that was none
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", command[0], err, complaints.String())
	}
	return nil
}

// reading keeps why its source could not be read to the end.
type reading struct {
	source io.Reader
	err    error
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.source.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// limited keeps the first bytes.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if n := min(len(p), l.left); n > 0 {
		l.left -= n
		if _, err := l.w.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
