package demo

import (
	"fmt"
	"net"
)

// freePorts returns n TCP ports of the loopback address that were free a moment ago. All are held open until
// the last was found, so no two are the same.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// checkPort says in words a person can act on that a port is taken.
func checkPort(port int) error {
	listener, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return fmt.Errorf("port %d of 127.0.0.1 is taken: %w", port, err)
	}
	return listener.Close()
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
