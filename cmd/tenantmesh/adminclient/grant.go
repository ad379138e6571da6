package adminclient

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// ApproveGrant approves an AccessGrant at a revision; 0: whatever it is.
func (c *Client) ApproveGrant(ctx context.Context, name string, revision int64) (*tenantstore.Object, error) {
	grant := &tenantstore.Object{}
	return grant, c.call(ctx, http.MethodPost, fmt.Sprintf("/accessgrants/%s/approve?revision=%d", url.PathEscape(name), revision), nil, grant)
}
