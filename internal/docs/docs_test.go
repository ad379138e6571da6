// Package docs keeps the generated documents as the code has them: `go test ./internal/docs -update` writes them anew.
package docs

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/control"
	"github.com/tenantmesh/tenantmesh/policy"
	"github.com/tenantmesh/tenantmesh/sidecar"
	"github.com/tenantmesh/tenantmesh/sidecar/audit"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
)

var update = flag.Bool("update", false, "write the documents anew")

func compare(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, []byte(text)) {
		t.Errorf("%s is not what the code says (%v): run make generate", path, err)
	}
}

func TestReasons(t *testing.T) {
	var out strings.Builder
	out.WriteString("# Reasons\n\nWhy a request was refused: the value of `x-tenantmesh-reason`, of the metrics' label and of the audit's field.\n" +
		"`tenantmesh explain` with the value of `x-tenantmesh-decision` says what was wrong in this very case.\n")
	for _, r := range policy.Reasons() {
		fmt.Fprintf(&out, "\n## %s\n\nStatus %d. %s %s\n", r, r.Status(), r.Title(), r.Advice())
	}
	compare(t, "../../docs/reasons.md", out.String())
}

// catalogue collects descriptions.
type catalogue struct{ descriptions []string }

func (c *catalogue) Register(collector prometheus.Collector) error {
	descriptions := make(chan *prometheus.Desc, 16)
	collector.Describe(descriptions)
	close(descriptions)
	for d := range descriptions {
		c.descriptions = append(c.descriptions, d.String())
	}
	return nil
}

func (c *catalogue) MustRegister(collectors ...prometheus.Collector) {
	for _, collector := range collectors {
		_ = c.Register(collector)
	}
}

func (c *catalogue) Unregister(prometheus.Collector) bool { return false }

func TestMetrics(t *testing.T) {
	var out strings.Builder
	out.WriteString("# Metrics\n\nNo label ever names a tenant.\n")
	for _, program := range []struct {
		title, text string
		register    func(prometheus.Registerer)
	}{
		{"Sidecars and gateways", "Each has them at `/metrics` of its metrics port.", func(r prometheus.Registerer) {
			decide.NewMetrics(r)
			audit.NewMetrics(r)
			sidecar.RegisterMetrics(r, sidecar.Gauges{})
		}},
		{"The control plane", "At `/metrics` of `--metrics-address`.", func(r prometheus.Registerer) { control.RegisterMetrics(r, nil, nil, nil) }},
	} {
		c := &catalogue{}
		program.register(c)
		fmt.Fprintf(&out, "\n## %s\n\n%s\n\n| metric | what | labels |\n| --- | --- | --- |\n", program.title, program.text)
		slices.Sort(c.descriptions)
		for _, d := range c.descriptions {
			name, help, labels := between(d, `fqName: "`, `"`), between(d, `help: "`, `", `), between(d, "variableLabels: {", "}")
			fmt.Fprintf(&out, "| `%s` | %s | %s |\n", name, help, strings.ReplaceAll(labels, ",", ", "))
			if strings.Contains(labels, "tenant") {
				t.Errorf("%s has a label that names a tenant", name)
			}
		}
	}
	compare(t, "../../docs/metrics.md", out.String())
}

// TestMetricsAreInOneFile: what is registered elsewhere would not be in the document.
func TestMetricsAreInOneFile(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || entry.Name() == "metrics.go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte("MustRegister(")) {
			t.Errorf("%s registers metrics: have its package do so in metrics.go, and TestMetrics call that", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}
