package decisionlog

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/zap"

	"github.com/tenantmesh/tenantmesh/policy"
)

// TestBounds: what a caller sends is kept in part, and keeps nothing else alive.
func TestBounds(t *testing.T) {
	l := New("0123456789abcdef", zap.NewNop())
	target := "/a?" + strings.Repeat("secret", 10_000)
	d := policy.Decision{ClientRequestID: strings.Repeat("i", 10_000), ClientTraceparent: strings.Repeat("t", 10_000), Path: target[:2], Method: strings.Repeat("M", 10_000), Detail: strings.Repeat("\u00e9", 10_000)}
	for i := range 1000 {
		d.Rules = append(d.Rules, policy.RuleResult{Rule: fmt.Sprint(i), Matched: i == 999, Why: strings.Repeat("w", 10_000)})
	}
	l.Add(&d)
	kept, ok := l.Find(d.ID)
	if !ok || kept.Path != "/a" || unsafe.StringData(kept.Path) == unsafe.StringData(target) {
		t.Errorf("the path %q is kept with its query", kept.Path)
	}
	if len(kept.Rules) != MaxRules || cap(kept.Rules) > 2*MaxRules || kept.Rules[0].Rule != "999" || len(kept.Rules[1].Why) > 2*maxText {
		t.Errorf("%d rules are kept, the first is %.50v", len(kept.Rules), kept.Rules)
	}
	if !strings.HasSuffix(kept.Method, "M... (9488 bytes more)") || !strings.HasSuffix(kept.Detail, "\u00e9... (19488 bytes more)") {
		t.Errorf("what was cut does not say so: %q, %q", kept.Method, kept.Detail)
	}
	if !strings.HasSuffix(kept.ClientRequestID, "i... (9744 bytes more)") || !strings.HasSuffix(kept.ClientTraceparent, "t... (9744 bytes more)") {
		t.Errorf("of the client's own IDs are kept %q, %q", kept.ClientRequestID, kept.ClientTraceparent)
	}
	if len(d.Method) != 10_000 {
		t.Error("the caller's decision is cut, too")
	}
	long := policy.Decision{Path: "/" + strings.Repeat("p", 2*maxPath)}
	if l.Add(&long); len(mustFind(t, l, long.ID).Path) > maxPath+32 {
		t.Error("a long path is kept whole")
	}
}

func mustFind(t *testing.T, l *Log, id string) policy.Decision {
	t.Helper()
	d, ok := l.Find(id)
	if !ok {
		t.Fatal("not found")
	}
	return d
}

// TestRecord: nothing of a decision is lost, whatever fields it has.
func TestRecord(t *testing.T) {
	var d policy.Decision
	number := 0
	fill(reflect.ValueOf(&d).Elem(), &number)
	l := New("0123456789abcdef", zap.NewNop())
	l.Add(&d)
	if found := mustFind(t, l, d.ID); !reflect.DeepEqual(found, d) {
		t.Errorf("remembered is %+v, want %+v", found, d)
	}
}

// fill gives every field a value of its own.
func fill(v reflect.Value, number *int) {
	*number++
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *number))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(float64(*number) + 0.5)
	case reflect.Int64, reflect.Int:
		v.SetInt(int64(-*number))
	case reflect.Uint8:
		v.SetUint(uint64(*number % 3))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), number)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(0, 1e18+int64(*number)).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), number)
		}
	default:
		panic(v.Kind())
	}
}
