package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pure are the rooms whose answers depend on their arguments alone (design, section 3).
var pure = []string{"identity", "policy/...", "xds/ir"}

// impure are the imports that no file of a pure room may have, by their beginning, and what is wrong with each. A
// library that a room may have (CEL's, SPIFFE IDs') is judged by what it is for, not by what is within it.
var impure = []struct{ prefix, what string }{
	{"net", "the network"}, // and net/...
	{"crypto/tls", "the network"},
	{"golang.org/x/net", "the network"},
	{"os", "the machine"}, // and os/...
	{"io/fs", "the machine"},
	{"syscall", "the machine"},
	{"golang.org/x/sys", "the machine"},
	{"log", "the machine"}, // and log/slog
	{"go.uber.org/zap", "the machine"},
	{"math/rand", "chance"}, // and math/rand/v2
	{"crypto/rand", "chance"},
	{"google.golang.org", "grpc or protobuf"},
	{"github.com/golang/protobuf", "protobuf"},
	{"github.com/gogo/protobuf", "protobuf"},
	{"github.com/envoyproxy", "protobuf"},
	{"github.com/cncf/xds", "protobuf"},
	{"github.com/grpc-ecosystem", "grpc"},
	{module + "api", "protobuf"},
	{"unsafe", "the machine"},
	{"C", "the machine"},
}

// clocks are what package time has beside times as values.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// TestPure: a pure room imports nothing that reaches out of the process, and never asks what time it is.
func TestPure(t *testing.T) {
	checked := 0
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if !slices.ContainsFunc(pure, func(tree string) bool { return within(name, tree) }) {
			continue
		}
		for _, file := range p.GoFiles {
			checked++
			for _, problem := range impurities(t, filepath.Join(p.Dir, file), nil) {
				t.Errorf("%s: %s: what it says must depend on its arguments alone", path.Join(name, file), problem)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d files were looked at", checked)
	}
}

// TestImpuritiesAreSeen: the check itself finds each way around it.
func TestImpuritiesAreSeen(t *testing.T) {
	for source, want := range map[string]string{
		`import "time"; var d time.Duration = time.Second; var t = time.Unix(0, 0).Add(d)`: "",
		`import "time"; var t = time.Now()`:                                                "time.Now",
		`import "time"; var clock = time.Now`:                                              "time.Now",
		`import clock "time"; var t = clock.Since(clock.Time{})`:                           "time.Since",
		`import . "time"; var t = Now()`:                                                   "time is imported with its names",
		`import "time"; func f() { <-time.After(1) }`:                                      "time.After",
		`import "time"; type T struct{ Now int }; var x T; var y = x.Now; var z time.Time`: "",
		`import "net"`:                                     "net is the network",
		`import _ "net/http"`:                              "net/http is the network",
		`import "net/url"`:                                 "net/url is the network",
		`import "os"`:                                      "os is the machine",
		`import "math/rand/v2"`:                            "math/rand/v2 is chance",
		`import "google.golang.org/grpc/codes"`:            "google.golang.org/grpc/codes is grpc or protobuf",
		`import "google.golang.org/genproto/x"`:            "is grpc or protobuf",
		`import "google.golang.org/protobuf/proto"`:        "is grpc or protobuf",
		`import "` + module + `api/tenantmesh/v1alpha1"`:   "is protobuf",
		`import "network"; import "oscar"; import "logic"`: "",
	} {
		problems := impurities(t, "x.go", "package x; "+source)
		if (len(problems) == 0) != (want == "") || want != "" && !strings.Contains(problems[0], want) {
			t.Errorf("%s: %q, want %q", source, problems, want)
		}
	}
}

// impurities are what is impure in a file; source is as for parser.ParseFile.
func impurities(t *testing.T, file string, source any) (problems []string) {
	t.Helper()
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	timePackage := ""
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range impure {
			if imported == i.prefix || strings.HasPrefix(imported, i.prefix+"/") {
				problems = append(problems, fmt.Sprintf("%s is %s", imported, i.what))
			}
		}
		if imported != "time" {
			continue
		}
		switch timePackage = "time"; {
		case spec.Name != nil && spec.Name.Name == ".":
			problems = append(problems, "time is imported with its names, among them those of clocks")
		case spec.Name != nil:
			timePackage = spec.Name.Name
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if of, ok := selector.X.(*ast.Ident); ok && timePackage != "" && of.Name == timePackage && slices.Contains(clocks, selector.Sel.Name) {
			problems = append(problems, fmt.Sprintf("line %d: time.%s is a clock", files.Position(selector.Pos()).Line, selector.Sel.Name))
		}
		return true
	})
	return problems
}
