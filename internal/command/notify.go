package command

import (
	"errors"
	"net"
	"os"
	"strings"
)

// Ready tells who started this process, where that is systemd with Type=notify, that it is ready (sd_notify(3)). Anywhere
// else it does nothing, and nobody waits for it.
func Ready() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if rest, abstract := strings.CutPrefix(path, "@"); abstract {
		path = "\x00" + rest
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte("READY=1"))
	return errors.Join(err, conn.Close())
}
