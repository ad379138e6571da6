package authz

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/types"
)

var withoutRegex = env.NewLibrarySubset().AddExcludedFunctions(env.NewFunction("matches"))

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewCustomEnv(
		cel.StdLib(cel.StdLibSubset(withoutRegex)),
		cel.Variable("request.method", cel.StringType),
		cel.Variable("request.path", cel.StringType),
		cel.Variable("request.workload", cel.StringType),
		cel.Variable("request.segments", cel.ListType(cel.StringType)),
		cel.Variable("request.time", cel.TimestampType),
		cel.Variable("tenant.name", cel.StringType),
		cel.Variable("tenant.tier", cel.StringType),
		cel.Variable("tenant.residency", cel.StringType),
		cel.Variable("tenant.labels", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("principal.id", cel.StringType),
		cel.Variable("principal.trustDomain", cel.StringType),
		cel.Variable("principal.path", cel.StringType),
	)
})

func compileCondition(text string) (cel.Program, error) {
	ast, _, err := checkCondition(text)
	if err != nil {
		return nil, err
	}
	vocabulary, err := environment()
	if err != nil {
		return nil, err
	}
	return vocabulary.Program(ast, cel.CostLimit(CostLimit), cel.EvalOptions(cel.OptOptimize))
}

// MostCost is what a condition costs at the most, in CEL's units: it is for requests as large as Envoy takes them, and no more than
// [CostLimit], at which it ends.
func MostCost(text string) (uint64, error) {
	_, estimate, err := checkCondition(text)
	return min(estimate.Max, CostLimit), err
}

func checkCondition(text string) (ast *cel.Ast, estimate cost.Estimate, err error) {
	vocabulary, err := environment()
	if err != nil {
		return nil, estimate, err
	}
	if len(text) > 4096 {
		return nil, estimate, fmt.Errorf("it is longer than 4096 bytes (%d)", len(text))
	}
	ast, issues := vocabulary.Compile(text)
	if issues.Err() != nil {
		return nil, estimate, errors.New(strings.ReplaceAll(strings.TrimSpace(issues.Err().Error()), "\n", " "))
	}
	if !ast.OutputType().IsExactType(types.BoolType) {
		return nil, estimate, fmt.Errorf("it gives %s, not bool", ast.OutputType())
	}
	if estimate, err = vocabulary.EstimateCost(ast, sizes{}); err != nil {
		return nil, estimate, err
	}
	if estimate.Min > CostLimit {
		return nil, estimate, fmt.Errorf("it costs at least %d, over %d", estimate.Min, CostLimit)
	}
	return ast, estimate, nil
}

// sizes leaves estimates to CEL's own.
type sizes struct{}

func (sizes) EstimateSize(cost.AstNode) *cost.SizeEstimate { return nil }
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (r *Request) activation() map[string]any {
	return map[string]any{
		"request.method": r.Method, "request.path": r.Path, "request.workload": r.Workload,
		"request.segments": strings.Split(strings.TrimPrefix(r.Path, "/"), "/"), "request.time": r.Now,
		"tenant.name": r.Tenant.ID.String(), "tenant.tier": r.Tenant.Tier, "tenant.residency": r.Tenant.Residency,
		"tenant.labels": labels(r.Tenant.Labels),
		"principal.id":  r.Principal.String(), "principal.trustDomain": r.Principal.TrustDomain(), "principal.path": r.Principal.Path(),
	}
}

func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// evaluate returns whether the condition holds; an error is the condition's, not the caller's.
func evaluate(program cel.Program, activation map[string]any) (bool, error) {
	value, _, err := program.Eval(activation)
	if err != nil {
		return false, err
	}
	return value == types.True, nil
}
