package decide

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// spelling refuses a request of which nobody can say what a service would make of it: then no rule would be about it.
func (a *attempt) spelling() bool {
	if !a.spelled {
		return a.refuse(policy.DeniedByPolicy, "the path's percent-encoding is malformed, or not of UTF-8")
	}
	// Neither is a host (RFC 9110, sections 4.2.4 and 7.2), and HTTP/2 knows it: the next Envoy would not take the request.
	if host, n := a.request.header(":authority"); n > 0 && (host == "" || strings.Contains(host, "@")) {
		return a.refuse(policy.DeniedByPolicy, fmt.Sprintf("the host must be one, and name no user (got %q)", host))
	}
	// Methods are case-sensitive (RFC 9110, section 9.1), and not every framework knows it.
	if strings.ToUpper(a.request.Method) != a.request.Method {
		return a.refuse(policy.DeniedByPolicy, "the method is not in upper case: some services read it as if it were")
	}
	// Its answer shows what the mesh added to the request (RFC 9110, section 9.3.8).
	if a.request.Method == http.MethodTrace || a.request.Method == "TRACK" {
		return a.refuse(policy.DeniedByPolicy, "a request by "+a.request.Method+" would show the headers of the mesh")
	}
	return true
}

// readings are the paths that services may read: the one that Envoy passes on, and the one without its segments'
// parameters. They are nearly always the same.
func (a *attempt) readings() (path, plain string) { return a.path, authz.WithoutParameters(a.path) }
