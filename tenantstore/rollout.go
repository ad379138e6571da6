package tenantstore

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/policy"
)

// RolloutSpec is the spec of kind Rollout: a change of a Tier or an AccessPolicy that a part of the tenants, its canary,
// has already. For the others the object stays as it is until the change has reached everyone. The name is
// [RolloutKey]'s, and the uid is the canary's seed.
type RolloutSpec struct {
	Candidate *Object      `json:"candidate"`         // the object as it will be
	Tenants   []string     `json:"tenants,omitempty"` // that have it whatever the share
	Steps     []float64    `json:"steps"`             // shares of the tenants, in percent, growing to 100
	Stage     int          `json:"stage"`             // of Steps, in force
	Every     float64      `json:"every,omitempty"`   // seconds until the next step is taken; 0: by hand
	State     RolloutState `json:"state"`
	Why       string       `json:"why,omitempty"`     // it was halted
	Removes   bool         `json:"removes,omitempty"` // Shadowed: in the end the object is gone
	Actor     string       `json:"actor"`             // who asked for it
	Began     time.Time    `json:"began"`
	Changed   time.Time    `json:"changed"` // when the step in force was taken
}

// RolloutState says whether a rollout goes on.
type RolloutState string

// The states. A rollout that is over is gone.
const (
	Progressing RolloutState = "Progressing"
	Halted      RolloutState = "Halted" // at its step, until someone promotes or aborts it
	Shadowed    RolloutState = "Shadow" // of an AccessPolicy: nobody has it, and sidecars count what it would change
)

// Bounds of a rollout.
const (
	maxSteps = 20
	minEvery = 10.0 // seconds; usage is reported every 5
)

// RolloutKey is where the rollout of an object is.
func RolloutKey(target Key) Key {
	return Key{KindRollout, strings.ToLower(string(target.Kind)) + "-" + target.Name}
}

// RolloutOf is the rollout of an object, nil for none.
func RolloutOf(objects map[Key]*Object, target Key) *Object { return objects[RolloutKey(target)] }

// Percent is the share of the tenants that have the change.
func (r *RolloutSpec) Percent() float64 { return r.Steps[r.Stage] }

// Due is when the next step is taken by itself, if Every is set.
func (r *RolloutSpec) Due() time.Time { return r.Changed.Add(seconds(r.Every)) }

// CanaryOf selects the tenants that have the change of a rollout.
func CanaryOf(rollout *Object) policy.Canary {
	return policy.Canary{Seed: rollout.Metadata.UID, Percent: rollout.Rollout.Percent(), Names: rollout.Rollout.Tenants}
}

// TiersFor are the tiers as one tenant has them: tiers, but its own as the candidate when it is in that one's canary.
func TiersFor(objects map[Key]*Object, tiers map[string]policy.TierSpec, tenant *Object) map[string]policy.TierSpec {
	rollout := RolloutOf(objects, Key{KindTier, tenant.Tenant.Tier})
	if rollout == nil {
		return tiers
	}
	if canary := CanaryOf(rollout); !canary.Selects(tenant.Metadata.Name, tenant.Metadata.UID) {
		return tiers
	}
	tiers = maps.Clone(tiers)
	tiers[tenant.Tenant.Tier] = *rollout.Rollout.Candidate.Tier
	return tiers
}

// RolloutRequest asks for a rollout.
type RolloutRequest struct {
	Object  *Object
	Steps   []float64 // none: 1, 10, 50, 100; with Tenants, who come first: 10, 50, 100
	Tenants []string
	Every   float64 // seconds
	Shadow  bool    // instead of all that: it is only watched, until someone promotes or aborts it
	Removes bool    // with Shadow: the object, of which only the name counts, would be gone
}

// StartRollout begins to give an object, whole, to the tenants step by step. Its errors are [Problems], those of an
// apply among them, or the store's.
func (w *Writer) StartRollout(ctx context.Context, actor string, request RolloutRequest, dryRun bool) (Result, error) {
	return w.transact(ctx, ApplyOptions{DryRun: dryRun}, func(t *draft) {
		steps, state, key := request.steps(), Progressing, RolloutKey(request.Object.Key())
		if request.Shadow {
			state = Shadowed
		}
		if request.Removes {
			if request.Object = t.objects[request.Object.Key()]; request.Object == nil {
				t.err = fmt.Errorf("%v: %w", key, ErrNotFound)
				return
			}
		}
		if problems := request.problems(t, steps); len(problems) > 0 {
			t.err = problems
			return
		}
		now := w.now()
		t.details[key] = fmt.Sprintf("%v to %v %% of the tenants", request.Object.Key(), steps[0])
		if request.Shadow {
			t.details[key] = fmt.Sprintf("a change of %v is watched", request.Object.Key())
		}
		t.put(&Object{Kind: key.Kind, Metadata: Metadata{Name: key.Name}, Rollout: &RolloutSpec{
			Candidate: request.Object, Tenants: request.Tenants, Steps: steps, Every: request.Every, State: state, Removes: request.Removes, Actor: actor, Began: now, Changed: now,
		}})
		t.audit(actor, now)
	})
}

// PromoteRollout takes a rollout's next step, halted or not. The last one writes the object, and ends the rollout. at is
// the revision that the rollout must have, 0 for any.
func (w *Writer) PromoteRollout(ctx context.Context, actor, name string, at int64) (Result, error) {
	return w.changeRollout(ctx, actor, name, at, func(t *draft, o *Object) {
		r := o.Rollout
		r.Stage++
		t.details[o.Key()] = fmt.Sprintf("%v to %v %% of the tenants", r.Candidate.Key(), r.Percent())
		if r.Percent() == 100 {
			t.remove(o.Key())
			if r.Removes {
				t.remove(r.Candidate.Key())
			} else {
				t.put(r.Candidate)
			}
			return
		}
		r.State, r.Why, r.Changed = Progressing, "", w.now()
		t.put(o)
	})
}

// AbortRollout ends a rollout: everyone has the object as it is.
func (w *Writer) AbortRollout(ctx context.Context, actor, name string) (Result, error) {
	return w.changeRollout(ctx, actor, name, 0, func(t *draft, o *Object) {
		t.details[o.Key()] = fmt.Sprintf("%v aborted at %v %%", o.Rollout.Candidate.Key(), o.Rollout.Percent())
		t.remove(o.Key())
	})
}

// HaltRollout makes a rollout stay at its step. at is as in [Writer.PromoteRollout].
func (w *Writer) HaltRollout(ctx context.Context, actor, name string, at int64, why string) (Result, error) {
	return w.changeRollout(ctx, actor, name, at, func(t *draft, o *Object) {
		t.details[o.Key()] = "halted: " + why
		o.Rollout.State, o.Rollout.Why = Halted, why
		t.put(o)
	})
}

func (w *Writer) changeRollout(ctx context.Context, actor, name string, at int64, change func(*draft, *Object)) (Result, error) {
	key, options := Key{KindRollout, name}, ApplyOptions{}
	if at != 0 {
		options.IfMatch = map[Key]int64{key: at}
	}
	return w.transact(ctx, options, func(t *draft) {
		o := t.objects[key]
		if o == nil {
			t.err = fmt.Errorf("%v: %w", key, ErrNotFound)
			return
		}
		change(t, o.Clone())
		t.audit(actor, w.now())
	})
}

// steps are the request's, with the defaults.
func (r *RolloutRequest) steps() []float64 {
	switch {
	case r.Shadow:
		return []float64{0, 100}
	case len(r.Steps) == 0 && len(r.Tenants) == 0:
		return []float64{1, 10, 50, 100}
	case len(r.Steps) == 0:
		return []float64{0, 10, 50, 100}
	case len(r.Tenants) > 0 && r.Steps[0] != 0:
		return append([]float64{0}, r.Steps...)
	default:
		return r.Steps
	}
}

func (r *RolloutRequest) problems(t *draft, steps []float64) (problems Problems) {
	key := r.Object.Key()
	add := func(path, format string, args ...any) {
		problems = append(problems, Problem{Object: key.String(), Path: path, Text: fmt.Sprintf(format, args...)})
	}
	switch _, tier := Tiers(t.few)[key.Name]; {
	case r.Shadow && key.Kind != KindAccessPolicy:
		add("kind", "must be AccessPolicy to be watched before it is in force (got %q)", key.Kind)
	case r.Removes:
	case key.Kind == KindTenant:
		add("kind", "must be Tier or AccessPolicy: one tenant is its own canary, apply it without a rollout (got %q)", key.Kind)
	case key.Kind != KindTier && key.Kind != KindAccessPolicy:
		add("kind", "must be Tier or AccessPolicy to carry a rollout; apply it without (got %q)", key.Kind)
	case key.Kind == KindTier && !tier:
		add("metadata.name", "must be a tier that exists: a new one has no tenants, apply it without a rollout (got %q)", key.Name)
	default:
		problems = r.candidate(t)
	}
	if rollout := RolloutOf(t.objects, key); rollout != nil && (!r.Shadow || rollout.Rollout.State != Shadowed) { // the next version is watched instead
		problems = append(problems, inRollout(t.objects, key))
	}
	if r.Shadow {
		return problems
	}
	for i, step := range steps {
		if low := slices.Max(append(steps[:i:i], 0)); step > 100 || step < low || step == low && (i > 0 || len(r.Tenants) == 0) {
			add("rollout.steps", "must be percentages that grow, from over 0 (got %v)", steps)
			break
		}
	}
	if last := len(steps) - 1; last < 1 || last >= maxSteps || steps[last] != 100 {
		add("rollout.steps", "must be 2 to %d, of which the last is 100 (got %v)", maxSteps, steps)
	}
	if r.Every != 0 && (r.Every < minEvery || r.Every > 1e8) {
		add("rollout.every", "must be at least %v seconds, or 0 to promote by hand (got %v)", minEvery, r.Every)
	}
	for i, name := range r.Tenants {
		if t.objects[Key{KindTenant, name}] == nil {
			add(fmt.Sprintf("rollout.tenants[%d]", i), "must name a Tenant that exists (got %q)", name)
		}
	}
	return problems
}

// candidate is what would be wrong if the object were applied.
func (r *RolloutRequest) candidate(t *draft) Problems {
	tier := Tiers(t.few)[r.Object.Metadata.Name]
	trial := &draft{view: t.view, was: map[Key]*Object{}}
	defer trial.undo()
	trial.put(r.Object)
	problems := validate(trial.view, []Key{r.Object.Key()}, nil)
	same := trial.changes[0].Action == Unchanged
	if r.Object.Kind == KindTier {
		same = same || reflect.DeepEqual(tier, *r.Object.Tier)
	}
	if same {
		problems = append(problems, Problem{Object: r.Object.Key().String(), Path: "spec", Text: "must change something (got what is in force)"})
	}
	return problems
}

// inRollout says that an object cannot be written beside its rollout.
func inRollout(objects map[Key]*Object, target Key) Problem {
	rollout := RolloutOf(objects, target)
	name := rollout.Metadata.Name
	if rollout.Rollout.State == Shadowed {
		return Problem{Object: target.String(), Path: "metadata.name", Text: fmt.Sprintf(
			"must not be in shadow, and a change of it is: end it with 'tenantmesh rollout abort %s', or 'tenantmesh rollout promote %s'", name, name)}
	}
	return Problem{Object: target.String(), Path: "metadata.name", Text: fmt.Sprintf(
		"must not be in a rollout, and is, at %v %%: end it with 'tenantmesh rollout abort %s', or 'tenantmesh rollout promote %s'", rollout.Rollout.Percent(), name, name)}
}

// keepRollouts refuses what was put beside its own rollout, which would overwrite it.
func (t *draft) keepRollouts() {
	var problems Problems
	for _, key := range t.changed() {
		if RolloutOf(t.objects, key) != nil {
			problems = append(problems, inRollout(t.objects, key))
		}
	}
	if len(problems) > 0 {
		t.err = problems
	}
}
