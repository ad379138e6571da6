package devca

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// caller is who is at the other end of a Unix socket, as the kernel says (SO_PEERCRED, unix(7)).
type caller struct{ pid, uid int }

// AuthType implements credentials.AuthInfo.
func (caller) AuthType() string { return "unix" }

func callerOf(conn net.Conn) (caller, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return caller{}, fmt.Errorf("must be a Unix socket (is %T)", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return caller{}, err
	}
	var credential *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) {
		credential, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, inner); err != nil {
		return caller{}, err
	}
	return caller{int(credential.Pid), int(credential.Uid)}, nil
}

func callerFrom(ctx context.Context) (caller, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(caller); ok {
			return c, nil
		}
	}
	return caller{}, errors.New("the caller is not known")
}

// peerCredentials are gRPC transport credentials that take the peer's word from the kernel.
type peerCredentials struct{}

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := callerOf(conn)
	return conn, c, err
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }
func (peerCredentials) OverrideServerName(string) error           { return nil }

// process is one process for its whole life: a pid alone may be given to another later.
type process struct {
	parent int
	start  uint64 // clock ticks after boot
}

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The name, in parentheses, may hold anything: fields are counted from the last one (proc_pid_stat(5)).
	_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return process{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return process{}, err
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	return process{parent, start}, err
}

// distance is how many parents lie between pid and the process that was ancestor when it started at start: 0 for
// that process itself, -1 when pid does not come from it.
func distance(pid, ancestor int, start uint64) int {
	for n := range maxDepth {
		p, err := readProcess(pid)
		if err != nil {
			return -1
		}
		if pid == ancestor {
			if p.start != start {
				return -1
			}
			return n
		}
		if p.parent <= 1 {
			return -1
		}
		pid = p.parent
	}
	return -1
}

// maxDepth is how many parents are looked at.
const maxDepth = 64
