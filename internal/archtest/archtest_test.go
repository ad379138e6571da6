// Package archtest holds the line between the rooms: who may import whom, a comment on every package, and names that
// say nothing.
package archtest

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tenantmesh/tenantmesh/"

// room is a package, or with a trailing "/..." a tree of them, the packages of this module that it may import, and why
// it may import no others. "..." within may is a tree, too. The first room that holds a package counts.
type room struct {
	name string
	may  []string
	why  string
}

var pureLeaf = "it is a leaf: everything else stands on it"

var rooms = []room{
	{"identity", nil, pureLeaf},
	{"identity/meshname", nil, "it is only names"},
	{"identity/tenanttoken", []string{"identity"}, "whoever verifies a context must not need to know what a policy is"},
	{"identity/svid/...", []string{"identity"}, "identity outlives the control plane"},
	{"identity/propagation/dedupe", []string{"identity/propagation"}, "services may link it"},
	{"identity/propagation/dedupe/redisdedupe", nil, "services may link it, and those without Redis need not"},
	{"identity/propagation/dedupe/storetest", nil, "it is a contract, not one of those that keep it"},
	{"identity/propagation/event", []string{"identity/propagation", "identity/tenanttoken"}, "services may link it, whatever their broker is"},
	{"identity/propagation/event/eventtest", []string{"identity", "identity/propagation", "identity/propagation/event", "identity/tenanttoken"}, "it is a sidecar for tests"},
	{"identity/propagation/franztenant", []string{"identity/propagation", "identity/propagation/event"}, "services may link it, and those without Kafka need not"},
	{"identity/propagation/grpctenant", []string{"identity/propagation"}, "services may link it, and those without gRPC need not"},
	{"identity/propagation", []string{"identity", "identity/tenanttoken"}, "services may link it"},
	{"policy", []string{"identity"}, "kinds and reasons are pure"},
	{"policy/analysis", []string{"identity", "policy", "policy/authz"}, "it computes with the policies that authz judges by, and nothing else"},
	{"policy/native", []string{"identity", "policy", "policy/authz"}, "Envoy's layer is of the policies that authz judges by, and of nothing else"},
	{"policy/...", []string{"identity", "policy"}, "decisions are pure arithmetic on their arguments"},
	{"ledger/...", []string{"identity", "policy", "ledger/..."}, "what happened does not depend on what is true now"},
	{"tenantstore/adminapi", []string{"identity/...", "policy", "ledger/...", "tenantstore", "tenantstore/placement"}, "what it shows of xds comes through functions"},
	{"tenantstore/placement", nil, "placement is arithmetic"},
	{"tenantstore/...", []string{"identity", "identity/meshname", "policy/...", "ledger", "tenantstore/..."}, "the store knows neither Envoy nor sidecars"},
	{"xds/ir", []string{"identity/...", "policy/...", "tenantstore"}, "what should be is computed before anyone asks how Envoy spells it"},
	{"xds/translator", []string{"identity/...", "policy", "policy/native", "xds/ir", "api/..."}, "a translator sees the mesh, not the store"},
	{"xds/bootstrap", []string{"identity/meshname"}, "sidecars link it"},
	{"xds/server", []string{"identity/...", "api/..."}, "who gets what does not depend on what it is"},
	{"xds", []string{"identity/...", "policy/...", "ledger/...", "tenantstore", "xds/...", "api/..."}, "the publisher joins the store and the server"},
	{"sidecar/...", []string{"identity/...", "policy/...", "ledger/...", "api/...", "sidecar/...", "xds/bootstrap"}, "the control plane is off the hot path: a sidecar works from what was pushed"},
	{"api/...", nil, "it is generated"},
	{"internal/command", nil, "both programs end alike"},
	{"internal/netns", nil, "it is of this machine, not of the mesh"},
	{"cmd/tenantmesh-sidecar", []string{"sidecar", "sidecar/capture", "internal/command"}, "it links no store"},
	{"cmd/...", []string{"..."}, ""},
	{"examples/...", nil, "an example is its own"},
	{"internal/...", []string{"..."}, ""},
	{"test/...", []string{"..."}, ""},
}

// banned are imports that a tree may not have, directly or through others. What the pure rooms may not have of their own
// is in [impure].
var banned = []struct{ tree, prefix, why string }{
	{"policy/...", "google.golang.org/grpc", "policy is pure"},
	{"policy", "google.golang.org/", "kinds and reasons are pure"},
	{"policy", "net", "kinds and reasons are pure"},
	{"policy/limit", "google.golang.org/", "limits are pure"},
	{"policy/limit", "net", "limits are pure"},
	{"policy/...", "net/http", "policy is pure"},
	{"identity", "net/http", "identity is a leaf"},
	{"xds/ir", "google.golang.org/grpc", "the mesh is computed, not fetched"},
	{"xds/ir", "net/http", "the mesh is computed, not fetched"},
	{"identity/propagation", "github.com/twmb", "who has no Kafka links none of it"},
	{"identity/propagation/event/...", "github.com/twmb", "what it says is for every broker"},
	{"identity/propagation/dedupe", "github.com/redis", "who has no Redis links none of it"},
	{"sidecar/...", "github.com/twmb", "the mesh speaks no Kafka: services do"},
	{"sidecar/...", "github.com/redis", "the mesh has no Redis: services have"},
	{"cmd/...", "github.com/twmb", "the mesh speaks no Kafka: services do"},
	{"cmd/...", "github.com/redis", "the mesh has no Redis: services have"},
	{"sidecar/...", "go.etcd.io/", "a sidecar links no store"},
	{"cmd/tenantmesh-sidecar", "go.etcd.io/", "a sidecar links no store"},
}

var emptyNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "types", "misc", "base"}

type pkg struct {
	ImportPath, Dir, Name              string
	Imports, Deps                      []string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports,Deps,GoFiles,TestGoFiles,XTestGoFiles", "-deps=false", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []pkg
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			if len(list) < len(rooms) {
				t.Fatalf("only %d packages were found", len(list))
			}
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func within(name, tree string) bool {
	if tree == "..." {
		return true
	}
	root, all := strings.CutSuffix(tree, "/...")
	return name == root || all && strings.HasPrefix(name, root+"/")
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		i := slices.IndexFunc(rooms, func(r room) bool { return within(name, r.name) })
		if i < 0 {
			t.Errorf("%s is in no room: give it a row in the table", name)
			continue
		}
		for _, imported := range p.Imports {
			other, ours := strings.CutPrefix(imported, module)
			if ours && !slices.ContainsFunc(rooms[i].may, func(tree string) bool { return within(other, tree) }) {
				t.Errorf("%s may not import %s: %s", name, other, rooms[i].why)
			}
		}
		for _, b := range banned {
			if !within(name, b.tree) {
				continue
			}
			for _, dependency := range p.Deps {
				if strings.HasPrefix(dependency, b.prefix) {
					t.Errorf("%s may not depend on %s: %s", name, dependency, b.why)
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	for _, p := range packages(t) {
		if slices.Contains(emptyNames, p.Name) {
			t.Errorf("%s: the name %q says nothing", p.ImportPath, p.Name)
		}
		files := slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles)
		commented := slices.ContainsFunc(files, func(file string) bool {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			return parsed.Doc != nil
		})
		if !commented {
			t.Errorf("%s has no package comment: say what it answers and what it may not import", p.ImportPath)
		}
	}
}
