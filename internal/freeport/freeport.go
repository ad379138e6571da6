// Package freeport answers WHICH PORT MAY I HAVE: TCP ports of 127.0.0.1 that stay free until their taker listens.
//
// Asking the kernel for port 0 and closing it again gives a port that the next outgoing connection of anybody may get
// before it is used. So ports come from below the range that the kernel gives to connections
// (net.ipv4.ip_local_port_range, ip(7)), in blocks that processes lock against each other for as long as they live.
//
// # Concurrency
//
// [Take] may be called from many goroutines and processes.
//
// It imports the standard library only.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const (
	first = 16384 // port
	block = 64    // ports
	// usual is where the kernel's own range begins when it does not say.
	usual = 32768
)

var (
	mu    sync.Mutex
	mine  []int      // of the locked blocks, not given out yet
	locks []*os.File // held until the process ends
)

// Take returns n free ports, n at least 0, each given out once in this process's life. It fails when the machine has
// not so many.
func Take(n int) ([]int, error) {
	mu.Lock()
	defer mu.Unlock()
	ports := make([]int, 0, n)
	for len(ports) < n {
		if len(mine) == 0 {
			if err := lock(); err != nil {
				return nil, fmt.Errorf("find %d free ports: %w", n, err)
			}
		}
		port := mine[0]
		mine = mine[1:]
		if Check(port) == nil {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// Check reports why nobody can listen on a port now, nil when somebody can.
func Check(port int) error {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return fmt.Errorf("port %d of 127.0.0.1 is taken: %w", port, err)
	}
	return listener.Close()
}

// lock makes another block this process's own.
func lock() error {
	blocks := max(1, (connections()-first)/block)
	from := rand.N(blocks)
	for i := range blocks {
		number := (from + i) % blocks
		file, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("tenantmesh-ports-%d-%d.lock", os.Getuid(), number)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			_ = file.Close()
			continue
		}
		locks = append(locks, file)
		for port := first + number*block; port < first+(number+1)*block; port++ {
			mine = append(mine, port)
		}
		return nil
	}
	return errors.New("every block of ports is locked by another process")
}

// connections is the first port that the kernel gives to outgoing connections.
func connections() int {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	var from, to int
	if _, scanErr := fmt.Sscan(strings.TrimSpace(string(text)), &from, &to); err != nil || scanErr != nil {
		return usual
	}
	return from
}
