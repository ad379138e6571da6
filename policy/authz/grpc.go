package authz

import (
	"fmt"
	"strings"

	"github.com/tenantmesh/tenantmesh/policy"
)

// compileTarget compiles what a target selects of its workload's requests.
func compileTarget(at string, t policy.Target) (requestMatch, FieldProblems) {
	var problems FieldProblems
	add := func(field, format string, args ...any) {
		problems = append(problems, FieldProblem{at + field, fmt.Sprintf(format, args...)})
	}
	if len(t.GRPC) > 0 && len(t.Methods)+len(t.Paths) > 0 {
		add("grpc", "must not be given with methods or paths: write another target for these")
	}
	for i, g := range t.GRPC {
		if !isName(g.Service, ".") {
			add(fmt.Sprintf("grpc[%d].service", i), "must be a gRPC service with its package, such as acme.Documents (got %q)", g.Service)
		}
		for j, method := range g.Methods {
			if !isName(method, "") {
				add(fmt.Sprintf("grpc[%d].methods[%d]", i, j), "must be a gRPC method, such as Get (got %q)", method)
			}
		}
	}
	if len(problems) > 0 {
		return requestMatch{}, problems
	}
	plain := t.Plain()
	return compileMatch(at, plain.Methods, plain.Paths)
}

// isName reports whether s is identifiers of Protocol Buffers with a separator between them, or without one a single identifier.
func isName(s, separator string) bool {
	parts := []string{s}
	if separator != "" {
		parts = strings.Split(s, separator)
	}
	for _, part := range parts {
		if part == "" || strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			return false
		}
	}
	return true
}
