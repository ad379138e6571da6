package adminclient

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/identity/svid"
	"github.com/tenantmesh/tenantmesh/internal/command"
)

// secure is a client of a control plane over mTLS, as who the Workload API of the environment says that this process is. What answers must be the
// control plane of the same trust domain.
func secure(url string) *Client {
	return &Client{url, url, &http.Client{Transport: &http.Transport{DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		source, err := svid.Open(ctx, "")
		if err != nil {
			return nil, err
		}
		defer func() { _ = source.Close() }()
		self, err := source.Principal()
		if err != nil {
			return nil, err
		}
		control, err := identity.ControlID(self.TrustDomain())
		if err != nil {
			return nil, err
		}
		dialer := tls.Dialer{Config: svid.ClientTLS(source, svid.AuthorizeIDs(control))}
		return dialer.DialContext(ctx, network, address)
	}}}}
}

// patience is how long a connection may take, with an SVID for it.
const patience = 10 * time.Second

// unanswered says why there is no answer, and what to look at.
func (c *Client) unanswered(err error) error {
	hint := "is the control plane running? name its socket with --admin"
	if c.base == c.at {
		hint = "is the control plane running with --admin-address, and an SVID to be had at $" + svid.EnvSocket + "?"
	}
	return command.Fail(command.Failed, hint, "no answer at %s: %w", c.at, err)
}
