// Package adminclient calls the control plane's admin API, over its Unix socket or over mTLS.
//
// It imports identity, tenantstore, tenantstore/adminapi, policy and ledger.
package adminclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// Client calls one control plane.
type Client struct {
	at   string // socket, or URL
	base string
	http *http.Client
}

// New returns a client of the control plane whose socket is at a path, or that answers over mTLS at "https://<host>:<port>".
func New(path string) *Client {
	if strings.HasPrefix(path, "https://") {
		return secure(strings.TrimSuffix(path, "/"))
	}
	return &Client{path, "http://control", &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}}}}
}

// refusal is a problem details answer.
type refusal struct {
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
		Value    any    `json:"value"`
	} `json:"errors"`
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	return c.send(ctx, method, path, in, out)
}

// send calls with headers more, as name, value.
func (c *Client) send(ctx context.Context, method, path string, in, out any, headers ...string) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.unanswered(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return refused(response.StatusCode, text)
	}
	return json.Unmarshal(text, out)
}

func refused(status int, text []byte) error {
	var r refusal
	if err := json.Unmarshal(text, &r); err != nil || r.Detail == "" {
		return command.Fail(command.Failed, "", "the control plane answers %d: %s", status, bytes.TrimSpace(text))
	}
	if len(r.Errors) == 0 || status != http.StatusUnprocessableEntity && status != http.StatusForbidden {
		return command.Fail(command.Failed, "", "%s", r.Detail)
	}
	problems := make(tenantstore.Problems, len(r.Errors))
	for i, e := range r.Errors {
		problems[i] = tenantstore.Problem{Path: e.Location, Text: e.Message}
		problems[i].Object, _ = e.Value.(string)
	}
	return problems
}

// Apply writes objects.
func (c *Client) Apply(ctx context.Context, objects []*tenantstore.Object, dryRun bool) (applied adminapi.Applied, err error) {
	err = c.call(ctx, http.MethodPost, adminapi.Base+"/apply?dryRun="+strconv.FormatBool(dryRun), objects, &applied)
	return applied, err
}

// ApplyAnyway writes objects as Apply does, whatever the coverage of the workloads is that are turned from observe to require.
func (c *Client) ApplyAnyway(ctx context.Context, objects []*tenantstore.Object, dryRun bool) (applied adminapi.Applied, err error) {
	err = c.call(ctx, http.MethodPost, adminapi.Base+"/apply?force=true&dryRun="+strconv.FormatBool(dryRun), objects, &applied)
	return applied, err
}

// Get reads one object.
func (c *Client) Get(ctx context.Context, kind tenantstore.KindInfo, name string) (*tenantstore.Object, error) {
	object := &tenantstore.Object{}
	return object, c.call(ctx, http.MethodGet, adminapi.Base+"/"+kind.Plural+"/"+url.PathEscape(name), nil, object)
}

// List reads every object of a kind.
func (c *Client) List(ctx context.Context, kind tenantstore.KindInfo) (list adminapi.List, err error) {
	err = c.call(ctx, http.MethodGet, adminapi.Base+"/"+kind.Plural, nil, &list)
	return list, err
}

// PutIf writes one object, unless it changed since it was read.
func (c *Client) PutIf(ctx context.Context, kind tenantstore.KindInfo, object *tenantstore.Object) (applied adminapi.Applied, err error) {
	written := &tenantstore.Object{}
	match := strconv.Quote(strconv.FormatInt(object.Metadata.Revision, 10))
	err = c.send(ctx, http.MethodPut, adminapi.Base+"/"+kind.Plural+"/"+url.PathEscape(object.Metadata.Name), object, written, "If-Match", match)
	return adminapi.Applied{Revision: written.Metadata.Revision}, err
}

// Delete removes one object.
func (c *Client) Delete(ctx context.Context, kind tenantstore.KindInfo, name string) (applied adminapi.Applied, err error) {
	err = c.call(ctx, http.MethodDelete, adminapi.Base+"/"+kind.Plural+"/"+url.PathEscape(name), nil, &applied)
	return applied, err
}

// Candidates says how every cell would do for a tenant; with place it is placed, if it has no cell yet.
func (c *Client) Candidates(ctx context.Context, tenant string, place bool) (candidates adminapi.Candidates, err error) {
	method, verb := http.MethodGet, "candidates"
	if place {
		method, verb = http.MethodPost, "place"
	}
	err = c.call(ctx, method, "/tenants/"+url.PathEscape(tenant)+"/"+verb, nil, &candidates)
	return candidates, err
}

// Advice says what an operator might do about tenants.
func (c *Client) Advice(ctx context.Context) (list []tenantstore.Advice, err error) {
	err = c.call(ctx, http.MethodGet, "/advice", nil, &list)
	return list, err
}

// Move starts, rolls back or aborts a tenant's move.
func (c *Client) Move(ctx context.Context, tenant string, input adminapi.MoveInput) (status adminapi.MoveStatus, err error) {
	err = c.call(ctx, http.MethodPost, "/tenants/"+url.PathEscape(tenant)+"/move", input, &status)
	return status, err
}

// MoveStatus says how far a tenant's move is.
func (c *Client) MoveStatus(ctx context.Context, tenant string) (status adminapi.MoveStatus, err error) {
	err = c.call(ctx, http.MethodGet, "/tenants/"+url.PathEscape(tenant)+"/move", nil, &status)
	return status, err
}

// Moves says how far every move is.
func (c *Client) Moves(ctx context.Context) (all []adminapi.MoveStatus, err error) {
	err = c.call(ctx, http.MethodGet, "/moves", nil, &all)
	return all, err
}

// Drain empties a cell, or with status only says who is still there.
func (c *Client) Drain(ctx context.Context, cell string, status bool) (plan tenantstore.Drain, err error) {
	method := http.MethodPost
	if status {
		method = http.MethodGet
	}
	err = c.call(ctx, method, "/cells/"+url.PathEscape(cell)+"/drain", nil, &plan)
	return plan, err
}

// Rollout gives a changed object to the tenants step by step; input says by which, but for its Object.
func (c *Client) Rollout(ctx context.Context, object *tenantstore.Object, input adminapi.RolloutInput, dryRun bool) (applied adminapi.Applied, err error) {
	if input.Object, err = json.Marshal(object); err != nil {
		return applied, err
	}
	err = c.call(ctx, http.MethodPost, "/rollouts?dryRun="+strconv.FormatBool(dryRun), input, &applied)
	return applied, err
}

// RolloutStatus says how far a rollout is.
func (c *Client) RolloutStatus(ctx context.Context, name string) (status adminapi.RolloutStatus, err error) {
	err = c.call(ctx, http.MethodGet, "/rollouts/"+url.PathEscape(name), nil, &status)
	return status, err
}

// Rollouts says how far every rollout is.
func (c *Client) Rollouts(ctx context.Context) (all []adminapi.RolloutStatus, err error) {
	err = c.call(ctx, http.MethodGet, "/rollouts", nil, &all)
	return all, err
}

// PromoteRollout takes a rollout's next step.
func (c *Client) PromoteRollout(ctx context.Context, name string) (applied adminapi.Applied, err error) {
	err = c.call(ctx, http.MethodPost, "/rollouts/"+url.PathEscape(name)+"/promote", nil, &applied)
	return applied, err
}

// AbortRollout ends a rollout.
func (c *Client) AbortRollout(ctx context.Context, name string) (applied adminapi.Applied, err error) {
	err = c.call(ctx, http.MethodPost, "/rollouts/"+url.PathEscape(name)+"/abort", nil, &applied)
	return applied, err
}

// FenceMember shuts a member out.
func (c *Client) FenceMember(ctx context.Context, id string) (applied adminapi.Applied, err error) {
	err = c.call(ctx, http.MethodPost, "/members/"+url.PathEscape(id)+"/fence", nil, &applied)
	return applied, err
}

// RevokeToken has the contexts of a transaction refused everywhere.
func (c *Client) RevokeToken(ctx context.Context, txn, reason string) (applied adminapi.Applied, err error) {
	err = c.call(ctx, http.MethodPost, "/revocations/"+url.PathEscape(txn)+"?reason="+url.QueryEscape(reason), nil, &applied)
	return applied, err
}

// Status says how far a revision is (0: the newest), and with wait at most seconds later.
func (c *Client) Status(ctx context.Context, revision int64, wait bool, seconds int) (status server.Status, err error) {
	err = c.call(ctx, http.MethodGet, fmt.Sprintf("/status?revision=%d&wait=%t&timeout=%d", revision, wait, seconds), nil, &status)
	return status, err
}

// Explain reads one decision.
func (c *Client) Explain(ctx context.Context, id string) (decision policy.Decision, err error) {
	err = c.call(ctx, http.MethodGet, "/decisions/"+url.PathEscape(id), nil, &decision)
	return decision, err
}

// Roles says who holds which role.
func (c *Client) Roles(ctx context.Context) (holders []adminapi.RoleHolder, err error) {
	err = c.call(ctx, http.MethodGet, "/roles", nil, &holders)
	return holders, err
}

// Usage reads what a tenant used.
func (c *Client) Usage(ctx context.Context, tenant string) (records []ledger.UsageRecord, err error) {
	err = c.call(ctx, http.MethodGet, "/usage?tenant="+url.QueryEscape(tenant), nil, &records)
	return records, err
}
