package authz

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestConditionsAreTyped: what cannot be of the right type is refused before any request comes.
func TestConditionsAreTyped(t *testing.T) {
	for _, text := range []string{
		`tenant.tier == 1`, `request.segments == "x"`, `request.time > "2026"`, `tenant.name`, `principal.id + 1 == ""`, `request.method in tenant.tier`,
		`nothing.at == "all"`, `request.body == ""`, `dyn(tenant.name)`, `tenant.labels["a"] < 1`,
	} {
		if _, err := compileCondition(text); err == nil {
			t.Errorf("%s compiles", text)
		}
	}
}

// TestConditionsAreBounded: nothing that costs more than the limit is evaluated to its end, and no condition can be long.
func TestConditionsAreBounded(t *testing.T) {
	ten := "[0,1,2,3,4,5,6,7,8,9]"
	nest := func(depth int, inner string) string {
		for i := range depth {
			inner = ten + ".all(v" + string(rune('a'+i)) + ", " + inner + ")"
		}
		return inner
	}
	for _, text := range []string{
		nest(6, "tenant.name != 'x'"),
		`request.segments.all(a, request.segments.all(b, request.segments.all(c, request.segments.all(d, a + b + c + d != ""))))`,
		`request.path.contains(request.path + request.path) || request.segments.map(a, request.segments.map(b, request.path + request.path + a + b)).size() > 0 && request.segments.map(a, request.segments.map(b, request.path + a + b)).size() > 0`,
	} {
		set, err := Compile([]Policy{permit(when(text))})
		if err != nil {
			continue // what cannot cost less is not even compiled
		}
		r := request(t)
		r.Path = "/search/" + strings.Repeat("long/", 200)
		d := set.Authorize(r)
		if d.Allowed || !strings.Contains(d.Results[0].Why, "cost limit exceeded") {
			t.Errorf("%s: allowed %v, because of %q", text, d.Allowed, d.Results[0].Why)
		}
	}
	if _, err := compileCondition(strings.Repeat("true && ", 600) + "true"); err == nil {
		t.Error("a condition of 4.8 kB compiles")
	}
}

// TestVocabulary: conditions can call these functions and no others. None takes a regular expression, reads a clock, a file or the network,
// or calls what is not CEL. Who takes a newer CEL looks at what is new in it.
func TestVocabulary(t *testing.T) {
	vocabulary, err := environment()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(slices.Sorted(maps.Keys(vocabulary.Functions())), " ")
	if want := "!_ -_ @in @not_strictly_false _!=_ _%_ _&&_ _*_ _+_ _-_ _/_ _<=_ _<_ _==_ _>=_ _>_ _?_:_ _[_] __not_strictly_false__ _in_ _||_ bool bytes contains " +
		"double duration dyn endsWith getDate getDayOfMonth getDayOfWeek getDayOfYear getFullYear getHours getMilliseconds getMinutes getMonth getSeconds in int size " +
		"startsWith string timestamp type uint"; got != want {
		t.Errorf("the functions are %s, want %s", got, want)
	}
	for _, text := range []string{`tenant.name.matches("(a+)+$")`, `matches(tenant.name, "a")`, `request.path.replace("a", "b") == ""`, `now() > request.time`, `http.get("http://x") == ""`, `tenant.name.find("a") == ""`} {
		if _, err := compileCondition(text); err == nil {
			t.Errorf("%s compiles", text)
		}
	}
}
