package authz_test

import (
	"testing"

	"github.com/tenantmesh/tenantmesh/internal/corpus"
	"github.com/tenantmesh/tenantmesh/policy/authz"
)

// TestCorpus judges the corpus' requests.
func TestCorpus(t *testing.T) {
	for _, c := range corpus.Read(t, "../testdata/corpus") {
		t.Run(c.Name, func(t *testing.T) {
			set, err := authz.Compile(c.Policies)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range c.Requests {
				if r.Seen != "" && r.Judge(set) != r.Evaluator {
					t.Errorf("%s: allowed is %v", r.Line, !r.Evaluator)
				}
			}
		})
	}
}
