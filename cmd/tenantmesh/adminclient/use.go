package adminclient

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// Top says who uses most now.
func (c *Client) Top(ctx context.Context) (list []tenantstore.Top, err error) {
	err = c.call(ctx, http.MethodGet, "/top", nil, &list)
	return list, err
}

// Shadow says what policies that are only watched would have done.
func (c *Client) Shadow(ctx context.Context) (report tenantstore.ShadowReport, err error) {
	err = c.call(ctx, http.MethodGet, "/shadow", nil, &report)
	return report, err
}

// PolicyUses says which policies permitted requests, and whose.
func (c *Client) PolicyUses(ctx context.Context) (report tenantstore.PolicyUses, err error) {
	err = c.call(ctx, http.MethodGet, "/policy-uses", nil, &report)
	return report, err
}

// Coverage says how the tenants of calls were proven.
func (c *Client) Coverage(ctx context.Context) (report tenantstore.Coverage, err error) {
	err = c.call(ctx, http.MethodGet, "/coverage", nil, &report)
	return report, err
}

// SLO says how well tenants were kept from each other since a time; the zero time is ever.
func (c *Client) SLO(ctx context.Context, since time.Time) (list []tenantstore.IsolationSLO, err error) {
	path := "/slo"
	if !since.IsZero() {
		path += "?since=" + url.QueryEscape(since.UTC().Format(time.RFC3339))
	}
	err = c.call(ctx, http.MethodGet, path, nil, &list)
	return list, err
}
