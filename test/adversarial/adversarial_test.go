package adversarial

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// TestAdversarial attacks one mesh: case by case, then by requests that nobody would send; looks whether what was decided
// is what was seen; and then takes the defences away, one after the other, to see that they were what held.
func TestAdversarial(t *testing.T) {
	w := start(t)
	classes := load(t)
	w.hold(t, "acme", "globex") // authorities are for calls of the service too
	w.end(t)
	ended := time.Now()
	cases := 0
	for _, c := range classes {
		if c.Class != services {
			cases += w.attack(t, c)
		}
	}
	t.Run("limits", w.evadeLimits)
	t.Run("xds", w.askForMore)
	t.Run("logs", w.injectLogs)
	t.Run("random", w.oddRequests)
	<-time.After(time.Until(ended.Add(grace)))
	for _, c := range classes {
		if c.Class == services {
			w.hold(t, "acme", "globex")
			cases += w.attack(t, c)
		}
	}
	t.Logf("%d cases", cases)
	if cases < 150 {
		t.Errorf("there are only %d cases", cases)
	}
	for _, c := range classes { // what was held back somewhere, and came later
		for _, a := range c.Cases {
			if n := len(w.seenOf(t, a.id)); a.Want.Nothing && n > 0 || n > max(1, a.Want.Most) {
				t.Errorf("%s: "+saw+"%d requests of it in the end", a.id, n)
			}
		}
	}
	t.Run("oracle", w.compare)
	t.Run("defences off", func(t *testing.T) { w.turnOff(t, classes) })
}

const (
	services = "the service itself"
	grace    = 6 * time.Second // in which a request that ended still counts: see sidecar/attribution
)

func (w *world) attack(t *testing.T, c *class) int {
	t.Run(strings.ReplaceAll(c.Class, " ", "-"), func(t *testing.T) {
		problems := make([][]string, len(c.Cases))
		together(len(c.Cases), func(i int) { problems[i] = w.try(t, c.Cases[i]) })
		for i, a := range c.Cases {
			t.Run(a.Name, func(t *testing.T) {
				for _, problem := range problems[i] {
					t.Errorf("%s: %s", a.id, problem)
				}
			})
		}
	})
	return len(c.Cases)
}

// together does n things, many at once: most wait for a proxy that gives up on a request.
func together(n int, do func(i int)) {
	var group errgroup.Group
	group.SetLimit(12)
	for i := range n {
		group.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = group.Wait()
}

// turnOff turns off each defence that a case names, and that case must fail then. Each class must have one.
func (w *world) turnOff(t *testing.T, classes []*class) {
	byDefence := map[string][]*attack{}
	for _, c := range classes {
		if !slices.ContainsFunc(c.Cases, func(a *attack) bool { return a.Defence != "" }) {
			t.Errorf("class %q has no case that names its defence", c.Class)
		}
		for _, a := range c.Cases {
			if a.Defence == "" {
				continue
			}
			if _, ok := defences[a.Defence]; !ok {
				t.Errorf("%s: there is no defence %q", a.id, a.Defence)
				continue
			}
			byDefence[a.Defence] = append(byDefence[a.Defence], a)
		}
	}
	var table strings.Builder
	tw := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "CLASS\tCASE\tDEFENCE\tWITHOUT IT")
	row := func(class, name, defence, without string) {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", class, name, defence, without)
	}
	for _, name := range slices.Sorted(maps.Keys(byDefence)) {
		w.switchOff(t, name)
		for _, a := range byDefence[name] {
			var seen string // what the service saw; keys take a moment to be fetched
			if !eventually(func() bool {
				problems := w.try(t, a)
				i := slices.IndexFunc(problems, func(p string) bool { return strings.HasPrefix(p, saw) })
				if i >= 0 {
					seen = problems[i]
				}
				return i >= 0
			}) {
				t.Errorf("%s: %q holds without its defence: %s", a.id, a.Name, defences[name].what)
				continue
			}
			row(a.class.Class, a.Name, defences[name].what, seen)
		}
	}
	w.turnOffLayers(t, byDefence["policies"], row)
	w.turnOffOthers(t, row)
	for name, d := range defences {
		if len(byDefence[name]) == 0 && !slices.Contains([]string{"both-layers", "limits"}, name) {
			t.Errorf("no case names the defence %q: nobody knows whether %s", name, d.what)
		}
	}
	w.switchOff(t, "")
	_ = tw.Flush()
	t.Logf("what holds, and what happens without it:\n%s", table.String())
}

// turnOffLayers takes the check away before which policies are a second time, in Envoy: what it refused is refused there, and by
// nothing else.
func (w *world) turnOffLayers(t *testing.T, forbidden []*attack, row func(class, name, defence, without string)) {
	through := func(a *attack) string {
		for _, problem := range w.try(t, a) {
			if strings.HasPrefix(problem, saw) {
				return problem
			}
		}
		return ""
	}
	w.switchOff(t, "check")
	for _, a := range forbidden {
		if seen := through(a); seen != "" {
			t.Errorf("%s: %q gets through where a sidecar has no check: %s", a.id, a.Name, seen)
		}
	}
	w.switchOff(t, "both-layers")
	for _, a := range forbidden {
		seen := ""
		if !eventually(func() bool { seen = through(a); return seen != "" }) {
			t.Errorf("%s: %q holds without %s", a.id, a.Name, defences["both-layers"].what)
			continue
		}
		row(a.class.Class, a.Name, defences["both-layers"].what, seen)
	}
}

// switchOff turns one defence off, and all others on again.
func (w *world) switchOff(t *testing.T, name string) {
	t.Helper()
	w.off.mu.Lock()
	w.off.name = name
	w.off.mu.Unlock()
	// Every sort of change, so that all is pushed again.
	objects := strings.Split(objects, "\n---\n")
	for i, o := range objects {
		objects[i] = strings.Replace(o, "metadata: {name:", fmt.Sprintf("metadata: {labels: {off: o%s}, name:", name), 1)
	}
	w.Apply(t, strings.Join(slices.DeleteFunc(objects, func(o string) bool {
		return !strings.Contains(o, "kind: "+string(tenantstore.KindTenant)+"\n") && !strings.Contains(o, "kind: "+string(tenantstore.KindWorkload)+"\n")
	}), "\n---\n"))
	<-time.After(settling)
}

// settling is how long after Envoy's word for new listeners its workers may still have the old ones.
const settling = 500 * time.Millisecond
