package adminclient

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tenantmesh/tenantmesh/ledger/trail"
)

// Trail writes a tenant's own audit trail with its proof, as JSON lines. The tenant is named, or by the uid of an incarnation
// that is gone; "-" is for what is about no tenant.
func (c *Client) Trail(ctx context.Context, tenant, uid string, since time.Time, out io.Writer) error {
	response, err := c.get(ctx, "/audit/trail?"+which(tenant, uid, since))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(out, response.Body)
	return err
}

// Crossings are the refusals of a tenant's own principals at what is not the tenant's.
func (c *Client) Crossings(ctx context.Context, tenant string, since time.Time) (refused []trail.Refused, err error) {
	return refused, c.call(ctx, http.MethodGet, "/audit/crossings?"+which(tenant, "", since), nil, &refused)
}

// Trails are the UIDs of which there is a trail, "" for no tenant.
func (c *Client) Trails(ctx context.Context) (uids []string, err error) {
	return uids, c.call(ctx, http.MethodGet, "/audit/tenants", nil, &uids)
}

func which(tenant, uid string, since time.Time) string {
	query := url.Values{"tenant": {tenant}}
	if uid != "" {
		query.Set("uid", uid)
	}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339))
	}
	return query.Encode()
}

func (c *Client) get(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://control"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
		return nil, fmt.Errorf("the control plane answered %s: %s", response.Status, text)
	}
	return response, nil
}
