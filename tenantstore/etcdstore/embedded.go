package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// maxSocketPath is how long the path of a Unix socket may be, with room for its name (unix(7): 107 bytes).
const maxSocketPath = 90

// socketFolder is the data's, or where that is too deep one of its own.
func socketFolder(data string) (string, error) {
	path, err := filepath.Abs(filepath.Join(data, "etcd-sockets"))
	if err != nil {
		return "", err
	}
	if len(path) > maxSocketPath {
		return os.MkdirTemp("", "tenantmesh-etcd-")
	}
	return path, errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700))
}

// startEmbedded starts an etcd of one member that listens on Unix sockets only: nothing of it can be reached from
// another host, and no port can be taken.
func startEmbedded(ctx context.Context, config Config) (*embedded, string, error) {
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return nil, "", err
	}
	sockets, err := socketFolder(config.DataDir)
	if err != nil {
		return nil, "", err
	}
	client := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "client")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "peer")}
	etcd := embed.NewConfig()
	etcd.Name = "embedded"
	etcd.Dir = filepath.Join(config.DataDir, "etcd")
	etcd.ListenClientUrls, etcd.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	// It has no peers, and listens for none: etcd would take an abstract socket, which every process of this machine can reach,
	// and close it by removing a file of its name, which in a folder that may not be written to never ends.
	etcd.ListenPeerUrls, etcd.AdvertisePeerUrls = nil, []url.URL{peer}
	etcd.InitialCluster = etcd.InitialClusterFromName(etcd.Name)
	etcd.MaxTxnOps = maxOps + 1
	etcd.MaxRequestBytes = maxRequest
	etcd.QuotaBackendBytes = quota
	etcd.AutoCompactionMode, etcd.AutoCompactionRetention = embed.CompactorModePeriodic, "1h"
	etcd.ZapLoggerBuilder = embed.NewZapLoggerBuilder(config.Log.Named("etcd"))
	server, err := embed.StartEtcd(etcd)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("embedded etcd: %w", err), os.RemoveAll(sockets))
	}
	started := &embedded{server, sockets}
	select {
	case <-server.Server.ReadyNotify():
		return started, client.String(), nil
	case err = <-server.Err():
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(startTime):
		err = fmt.Errorf("it was not ready after %v", startTime)
	}
	return nil, "", errors.Join(fmt.Errorf("embedded etcd: %w", err), started.stop())
}

// embedded is an etcd that runs in this process.
type embedded struct {
	server  *embed.Etcd
	sockets string
}

// stop ends it. Its sockets are gone when it returns, so that the next one's are not taken away.
func (e *embedded) stop() error {
	e.server.Close()
	<-e.server.Server.StopNotify()
	return os.RemoveAll(e.sockets)
}
