package tenantstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Transition is a step of a move (design, section 8). Each is one compare-and-set that raises the epoch, and checks
// what it needs in the same transaction.
type Transition string

// The transitions.
const (
	MoveStart    Transition = "start"    // ACTIVE or FINAL -> MIGRATING
	MoveAppoint  Transition = "appoint"  // MIGRATING -> MIGRATING, with another mover: the former left or was fenced
	MoveFollow   Transition = "follow"   // MIGRATING -> MIGRATING, copying: the other cell follows, by what the mover brings
	MoveFence    Transition = "fence"    // MIGRATING -> FENCING
	MoveSeal     Transition = "seal"     // FENCING -> FENCING, sealed
	MoveCopy     Transition = "copy"     // FENCING, sealed -> FENCING, copying: what came before the seal has ended
	MoveShut     Transition = "shut"     // FENCING, copying -> FENCING, shut: the data is there, and reads are held too
	MoveCutover  Transition = "cutover"  // FENCING, shut -> CUTOVER, with the cells exchanged
	MoveFinish   Transition = "finish"   // CUTOVER -> FINAL
	MoveClean    Transition = "clean"    // FINAL -> FINAL, sealed: the source's copy is deleted
	MoveSettle   Transition = "settle"   // FINAL -> FINAL without the tombstone
	MoveUnfence  Transition = "unfence"  // FENCING -> MIGRATING
	MoveAbort    Transition = "abort"    // MIGRATING or FENCING -> ACTIVE, or FINAL until the other cell's copy is deleted, and from there ACTIVE
	MoveRollback Transition = "rollback" // CUTOVER, or FINAL with the tombstone -> MIGRATING, back
)

// steps says from where each transition goes, to where, and what it waits for.
var steps = map[Transition]struct {
	from  []MoveState
	to    MoveState
	waits func(*mover) []Wait
}{
	MoveStart:   {[]MoveState{StateActive, StateFinal}, StateMigrating, nil},
	MoveAppoint: {[]MoveState{StateMigrating}, StateMigrating, nil},
	// What a gateway sent straight to the cell has ended: all that counts passes by the mover.
	MoveFollow: {[]MoveState{StateMigrating}, StateMigrating, func(m *mover) []Wait { return m.drained(m.gateways()) }},
	// What a gateway sent straight to the cell has ended: all that is open can be held, and sent again.
	MoveFence: {[]MoveState{StateMigrating}, StateFencing, func(m *mover) []Wait {
		return append(m.drained(m.gateways()), m.copied(m.following(), "little to be left of the data", func(c Copy) bool { return c.Caught })...)
	}},
	MoveSeal: {[]MoveState{StateFencing}, StateFencing, func(m *mover) []Wait { return append(m.drained(m.gateways()), m.applied(m.sidecars(m.p.Cell))...) }},
	// Only then are digests worth something: nothing can change what they are of.
	MoveCopy: {[]MoveState{StateFencing}, StateFencing, func(m *mover) []Wait {
		return slices.Concat(m.is(m.p.Sealed, "the seal"), m.drained(m.gateways()), m.drained(m.sidecars(m.p.Cell)), m.drained(m.sidecars(m.p.Target)))
	}},
	MoveShut: {[]MoveState{StateFencing}, StateFencing, func(m *mover) []Wait {
		return slices.Concat(m.is(m.p.Copy, "the copy"), m.drained(m.gateways()), m.drained(m.sidecars(m.p.Cell)), m.drained(m.sidecars(m.p.Target)),
			m.copied(m.data("export"), "equal digests", func(c Copy) bool { return c.DigestFrom != "" && c.DigestFrom == c.DigestTo }))
	}},
	MoveCutover: {[]MoveState{StateFencing}, StateCutover, func(m *mover) []Wait {
		return slices.Concat(m.is(m.p.Shut, "reads to be held"), m.drained(m.gateways()), m.drained(m.sidecars(m.p.Cell)), m.applied(m.sidecars(m.p.Target)))
	}},
	MoveFinish: {[]MoveState{StateCutover}, StateFinal, func(m *mover) []Wait { return append(m.applied(m.gateways()), m.applied(m.sidecars(m.p.Cell))...) }},
	MoveClean: {[]MoveState{StateFinal}, StateFinal, func(m *mover) []Wait {
		if m.aborted() { // nobody was served there: nothing has grace, and nothing that is brought may come after the deletion
			return append(m.applied(m.gateways()), m.drained(m.sidecars(m.p.Target))...)
		}
		return append(m.applied(m.gateways()), m.grace()...)
	}},
	MoveSettle: {[]MoveState{StateFinal}, StateFinal, func(m *mover) []Wait {
		return slices.Concat(m.applied(m.gateways()), m.grace(), m.copied(m.data("delete"), m.p.Target+"'s copy to be deleted", func(c Copy) bool { return c.Deleted }))
	}},
	MoveUnfence:  {[]MoveState{StateFencing}, StateMigrating, nil},
	MoveAbort:    {[]MoveState{StateMigrating, StateFencing}, StateActive, nil},
	MoveRollback: {[]MoveState{StateCutover, StateFinal}, StateMigrating, nil},
}

// Wait is one thing that a transition waits for, and what can be done about it.
type Wait struct {
	For  string `json:"for"`
	Hint string `json:"hint,omitempty"`
}

// Bounds of a move, in seconds.
const (
	DefaultHold  = 2.0
	DefaultGrace = 600.0 // longer than a context lives, and clocks differ
	MaxHold      = 30.0
	DefaultPause = 10.0 // a fence may stand for so long before the move steps back; it tries again FenceRest later
	MaxPause     = 3600.0
	minGrace     = 1.0
	// FenceRest is how long a move rests after a fence that came to nothing.
	FenceRest = 5 * time.Second
)

// MoveRequest asks for a transition of a tenant's move.
type MoveRequest struct {
	Tenant     string
	Transition Transition
	To         string  // of MoveStart
	Hold       float64 // of MoveStart; 0: DefaultHold
	Grace      float64 // of MoveStart; 0: DefaultGrace
	Pause      float64 // of MoveStart; 0: DefaultPause
	Epoch      int64   // that the placement must have; 0: any
}

// Move makes one transition. Its errors are [ErrNotFound], [Problems] that say what is in the way, or the store's.
func (w *Writer) Move(ctx context.Context, actor string, request MoveRequest) (*Object, error) {
	var moved *Object
	_, err := w.transact(ctx, ApplyOptions{}, func(t *draft) {
		moved = t.move(actor, request, w.now())
		t.audit(actor, w.now())
	})
	return moved, err
}

// NextMove is the transition that a tenant's move makes by itself, and what it waits for: none of it, and it can be
// made. It is "" for a tenant that does not move.
func NextMove(objects map[Key]*Object, tenant string, now time.Time) (Transition, []Wait) {
	m := newMover(objects, tenant, now)
	if m == nil || m.move == nil || m.move.Outcome != "" {
		return "", nil
	}
	var next Transition
	switch m.p.State {
	case StateMigrating:
		if rest := m.move.Changed.Add(FenceRest).Sub(now); m.move.Fences > 0 && rest > 0 {
			return MoveFence, []Wait{{fmt.Sprintf("a rest of %.0f s after fence %d, which waited in vain for %s", rest.Seconds(), m.move.Fences, m.move.Trouble), "it tries again by itself; 'tenantmesh tenant move " + tenant + " --abort' gives it up"}}
		}
		next = MoveFence
		if len(m.following()) > 0 {
			switch {
			case !m.serving(m.p.Mover):
				next = MoveAppoint
			case !m.p.Copy:
				next = MoveFollow
			}
		}
	case StateFencing:
		next = m.nextInFence()
		if waits := m.waits(next); len(waits) > 0 && (m.failed() || now.Sub(m.move.Changed) > seconds(cmp.Or(m.move.Pause, DefaultPause))) {
			return MoveUnfence, nil
		}
	case StateCutover:
		next = MoveFinish
	case StateFinal:
		next = MoveSettle
		if len(m.data("delete")) > 0 && (!m.p.Sealed || !m.serving(m.p.Mover)) {
			next = MoveClean
		}
	default:
		return "", nil
	}
	return next, m.waits(next)
}

// waits are what a transition waits for.
func (m *mover) waits(t Transition) []Wait {
	if waits := steps[t].waits; waits != nil {
		return waits(m)
	}
	return nil
}

// Copies are what the mover of a tenant has reported last about its data, by workload.
func Copies(objects map[Key]*Object, tenant string) []Copy {
	m := newMover(objects, tenant, time.Time{})
	if m == nil || m.p.Mover == "" {
		return nil
	}
	copies := slices.Clone(m.position(m.p.Mover).Copies)
	slices.SortFunc(copies, func(a, b Copy) int { return strings.Compare(a.Workload, b.Workload) })
	return copies
}

// mover looks at one tenant's move.
type mover struct {
	objects map[Key]*Object
	tenant  *Object
	p       *Placement
	move    *MoveSpec // nil: it never moved
	now     time.Time
}

// data are the workloads that keep data of tenants, by name; with hook, those that have it.
func (m *mover) data(hook string) (names []string) {
	for _, key := range keysOf(m.objects, KindWorkload) {
		if data := m.objects[key].Workload.TenantData; data != nil && data.Hook(hook) != "" {
			names = append(names, key.Name)
		}
	}
	return names
}

// following are the workloads whose data follows before the fence.
func (m *mover) following() (names []string) {
	for _, name := range m.data("export") {
		if m.objects[Key{KindWorkload, name}].Workload.TenantData.Follows() {
			names = append(names, name)
		}
	}
	return names
}

// aborted reports whether the move was given up and what it brought is still to be deleted.
func (m *mover) aborted() bool { return m.move != nil && m.move.Aborted && m.move.Outcome == "" }

// from are the states from which a transition goes.
func (m *mover) from(t Transition) []MoveState {
	from := steps[t].from
	switch {
	case !m.aborted():
	case t == MoveAbort:
		return []MoveState{StateFinal}
	case t == MoveRollback:
		return nil
	}
	return from
}

// serving reports whether a gateway counts: it has not left, and was not fenced.
func (m *mover) serving(gateway string) bool {
	return slices.ContainsFunc(m.gateways(), func(o *Object) bool { return o.Metadata.Name == gateway })
}

// copied waits until the mover has done its part for each of the workloads.
func (m *mover) copied(workloads []string, what string, done func(Copy) bool) (waits []Wait) {
	at := m.position(m.p.Mover)
	for _, name := range workloads {
		var found *Copy
		for i := range at.Copies {
			if at.Copies[i].Workload == name && at.Epoch == m.p.Epoch {
				found = &at.Copies[i]
			}
		}
		switch {
		case found == nil:
			waits = append(waits, Wait{fmt.Sprintf("gateway %s to see to the data of workload %s", m.p.Mover, name), ""})
		case found.Error != "":
			waits = append(waits, Wait{fmt.Sprintf("the data of workload %s: %s", name, found.Error), m.mend()})
		case !done(*found):
			waits = append(waits, m.unfinished(name, what, found))
		}
	}
	return waits
}

// mend is what can be done about a hook that fails.
func (m *mover) mend() string {
	if m.p.State == StateFinal {
		hint := "mend the workload's delete hook: it is called again by itself; the tenant is served meanwhile"
		if m.aborted() {
			hint += "; 'tenantmesh tenant move " + m.tenant.Metadata.Name + " --abort' leaves the copy there"
		}
		return hint
	}
	return "mend the workload's hooks; the move tries again by itself, 'tenantmesh tenant move " + m.tenant.Metadata.Name + " --abort' gives it up"
}

// unfinished says what is missing of a copy.
func (m *mover) unfinished(workload, what string, c *Copy) Wait {
	if m.p.State == StateFinal {
		return Wait{what + " of workload " + workload, ""}
	}
	if m.p.State == StateFencing {
		return Wait{fmt.Sprintf("%s of workload %s (%q at the source, %q at the target)", what, workload, c.DigestFrom, c.DigestTo), "see why import does not give back what export gave"}
	}
	return Wait{fmt.Sprintf("%s of workload %s (%d bytes in %d passes, %d writes in the journal, begun again %d times)", what, workload, c.Bytes, c.Passes, c.Journal, c.Resyncs), ""}
}

// failed reports whether the mover could not do its part: waiting does not help.
func (m *mover) failed() bool {
	at := m.position(m.p.Mover)
	return at.Epoch == m.p.Epoch && slices.ContainsFunc(at.Copies, func(c Copy) bool { return c.Error != "" || c.DigestFrom != c.DigestTo })
}

// nextMover is the gateway that copies: another one at each try, and one that is there if there is one.
func (m *mover) nextMover() string {
	gateways := m.gateways()
	if here := slices.DeleteFunc(slices.Clone(gateways), func(o *Object) bool { return m.objects[Key{KindEndpoint, o.Metadata.Name}] == nil }); len(here) > 0 {
		gateways = here
	}
	if len(gateways) == 0 {
		return ""
	}
	try := 0
	if m.move != nil {
		try = m.move.Fences
	}
	return gateways[try%len(gateways)].Metadata.Name
}

// appoint names the mover of a tenant in MIGRATING, as of an epoch: nobody when nothing follows before the seal.
func (m *mover) appoint(epoch int64) (mover string, follow int64) {
	if len(m.following()) == 0 {
		return "", 0
	}
	return m.nextMover(), epoch
}

func newMover(objects map[Key]*Object, name string, now time.Time) *mover {
	tenant := objects[Key{KindTenant, name}]
	if tenant == nil || tenant.Status.Placement == nil {
		return nil
	}
	m := &mover{objects: objects, tenant: tenant, p: tenant.Status.Placement, now: now}
	if o := objects[Key{KindMove, name}]; o != nil && o.Move.UID == tenant.Metadata.UID {
		m.move = o.Move
	}
	return m
}

// members are those that count: not those that left, or were fenced.
func (m *mover) members(counts func(*MemberSpec) bool) []*Object {
	var list []*Object
	for key, o := range m.objects {
		if key.Kind == KindMember && !o.Member.Left && !o.Member.Fenced && counts(o.Member) {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b *Object) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return list
}

func (m *mover) gateways() []*Object {
	return m.members(func(s *MemberSpec) bool { return s.Role == RoleGateway })
}

func (m *mover) sidecars(cell string) []*Object {
	return m.members(func(s *MemberSpec) bool { return s.Role == RoleSidecar && s.Cell == cell })
}

// PositionName is the name of a member's position about a tenant's incarnation.
func PositionName(member, tenant string) string {
	return digest(member + " " + tenant)
}

func (m *mover) position(member string) *PositionSpec {
	if o := m.objects[Key{KindPosition, PositionName(member, m.tenant.Metadata.Name)}]; o != nil && o.Position.UID == m.tenant.Metadata.UID && o.Position.Member == member {
		return o.Position
	}
	return &PositionSpec{}
}

func (m *mover) applied(members []*Object) (waits []Wait) {
	for _, o := range members {
		if at := m.position(o.Metadata.Name).Epoch; at < m.p.Epoch {
			waits = append(waits, Wait{
				fmt.Sprintf("%s (member %s) to apply epoch %d (is at %d)", o.Member.Principal, o.Metadata.Name, m.p.Epoch, at),
				"bring it back, or if it is gone for good: tenantmesh member fence " + o.Metadata.Name,
			})
		}
	}
	return waits
}

func (m *mover) drained(members []*Object) []Wait {
	waits := m.applied(members)
	for _, o := range members {
		if at := m.position(o.Metadata.Name); at.Epoch >= m.p.Epoch && !at.Drained {
			waits = append(waits, Wait{fmt.Sprintf("%s (member %s) to end its requests from before epoch %d", o.Member.Principal, o.Metadata.Name, m.p.Epoch),
				"they end by themselves, within 150 s at most; 'tenantmesh tenant move " + m.tenant.Metadata.Name + " --abort' gives the move up"})
		}
	}
	return waits
}

// is waits for a step that comes before.
func (m *mover) is(done bool, what string) []Wait {
	if done {
		return nil
	}
	return []Wait{{what, ""}}
}

// nextInFence is the next step of a tenant in FENCING.
func (m *mover) nextInFence() Transition {
	switch {
	case m.p.Shut:
		return MoveCutover
	case m.p.Copy:
		return MoveShut
	case m.p.Sealed:
		return MoveCopy
	default:
		return MoveSeal
	}
}

func (m *mover) grace() []Wait {
	if m.p.Sealed { // it has passed
		return nil
	}
	if m.aborted() {
		return nil
	}
	if left := m.move.Changed.Add(seconds(m.move.Grace)).Sub(m.now); left > 0 {
		return []Wait{{fmt.Sprintf("%.0f s of grace, in which the source keeps its tombstone", left.Seconds()), ""}}
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// move makes a transition in the draft, or says in its error why not.
func (t *draft) move(actor string, request MoveRequest, now time.Time) *Object {
	key := Key{KindTenant, request.Tenant}
	m := newMover(t.objects, request.Tenant, now)
	if m == nil {
		if t.err = fmt.Errorf("%v: %w", key, ErrNotFound); t.objects[key] != nil {
			t.err = Problems{{Object: key.String(), Text: "must have a cell to be moved from one (has none yet)"}}
		}
		return nil
	}
	step, ok := steps[request.Transition]
	problems := m.problems(request)
	if from := m.from(request.Transition); !ok || !slices.Contains(from, m.p.State) {
		problems = append(problems, Problem{Path: "state", Text: fmt.Sprintf("must be one of %v to %s (is %s)", from, request.Transition, m.p.State) + m.instead(request)})
	} else if len(problems) == 0 {
		for _, wait := range m.waits(request.Transition) {
			problems = append(problems, Problem{Path: "waits", Text: "must have " + wait.For})
		}
	}
	if request.Epoch != 0 && request.Epoch != m.p.Epoch {
		problems = append(problems, Problem{Path: "epoch", Text: fmt.Sprintf("must be %d (is %d)", request.Epoch, m.p.Epoch)})
	}
	if len(problems) > 0 {
		for i := range problems {
			problems[i].Object = key.String()
		}
		t.err = problems
		return nil
	}
	tenant := m.tenant.Clone()
	p := tenant.Status.Placement
	record := m.record(actor, request)
	mover, follow := p.Mover, p.Follow
	p.State, p.Sealed, p.Copy, p.Shut, p.Mover, p.Follow = step.to, false, false, false, "", 0
	p.Epoch++
	switch request.Transition {
	case MoveStart:
		p.Target = request.To
		p.Mover, p.Follow = m.appoint(p.Epoch)
	case MoveAppoint:
		p.Mover, p.Follow = m.appoint(p.Epoch)
	case MoveFollow:
		p.Copy, p.Mover, p.Follow = true, mover, follow
	case MoveFence:
		p.Mover, p.Follow = mover, follow
		record.Fences++
	case MoveSeal:
		p.Sealed, p.Mover, p.Follow = true, mover, follow
	case MoveCopy:
		if p.Sealed, p.Copy, p.Mover, p.Follow = true, true, mover, follow; !m.serving(mover) {
			p.Mover, p.Follow = m.nextMover(), 0
		}
	case MoveShut:
		p.Sealed, p.Copy, p.Shut = true, true, true
	case MoveClean:
		p.Sealed, p.Mover = true, m.nextMover()
	case MoveCutover:
		p.Cell, p.Target, p.Since = p.Target, p.Cell, p.Epoch
	case MoveAbort:
		if len(m.data("delete")) > 0 && !m.aborted() {
			p.State, record.Aborted = StateFinal, true
		} else {
			p.Target, record.Outcome = "", MoveAborted
		}
	case MoveRollback:
		record.From, record.To, record.Rollback, record.Fences = p.Cell, p.Target, true, 0
		p.Mover, p.Follow = m.appoint(p.Epoch)
	case MoveSettle:
		if p.Target, record.Outcome = "", MoveDone; record.Aborted {
			record.Outcome = MoveAborted
		}
	case MoveUnfence:
		record.Trouble = m.trouble()
		p.Mover, p.Follow = m.appoint(p.Epoch)
	case MoveFinish:
	}
	record.Changed = now
	t.details[key] = fmt.Sprintf("%s: %s from %s to %s, epoch %d", request.Transition, p.State, record.From, record.To, p.Epoch)
	if request.Transition == MoveUnfence {
		t.details[key] += ", after waiting in vain for " + record.Trouble
	}
	if m.aborted() {
		t.details[key] += map[Transition]string{
			MoveClean: ", given up: what it brought to " + record.To + " is to be deleted", MoveSettle: ", given up: what it brought to " + record.To + " is deleted",
			MoveAbort: ", given up: what it brought to " + record.To + " stays there",
		}[request.Transition]
	}
	t.replace(tenant)
	t.put(&Object{Kind: KindMove, Metadata: Metadata{Name: request.Tenant}, Move: record})
	if record.Outcome != "" {
		t.forget(request.Tenant)
	}
	return tenant
}

// trouble is what keeps a fenced tenant from its cutover.
func (m *mover) trouble() string {
	var parts []string
	for _, wait := range m.waits(m.nextInFence()) {
		parts = append(parts, wait.For)
	}
	return strings.Join(parts, ", and ")
}

// record is the move's record as it will be: a new one for a new move.
func (m *mover) record(actor string, request MoveRequest) *MoveSpec {
	if request.Transition != MoveStart {
		record := *m.move
		return &record
	}
	record := &MoveSpec{
		UID: m.tenant.Metadata.UID, From: m.p.Cell, To: request.To, Actor: actor, Began: m.now, Hold: request.Hold, Grace: request.Grace, Pause: request.Pause,
	}
	if record.Hold == 0 {
		record.Hold = DefaultHold
	}
	if record.Grace == 0 {
		record.Grace = DefaultGrace
	}
	return record
}

// instead is what gives a move up in the state that it is in, for who asked for the other.
func (m *mover) instead(request MoveRequest) string {
	command := "'tenantmesh tenant move " + m.tenant.Metadata.Name
	switch {
	case request.Transition == MoveRollback && m.aborted():
		return fmt.Sprintf(": the move is given up already, and the tenant has not left %s", m.p.Cell)
	case request.Transition == MoveRollback && slices.Contains(steps[MoveAbort].from, m.p.State):
		return fmt.Sprintf(": the tenant has not left %s, and %s --abort' keeps it there", m.p.Cell, command)
	case request.Transition == MoveAbort && slices.Contains(steps[MoveRollback].from, m.p.State) && m.p.Target != "":
		return fmt.Sprintf(": the tenant is in %s already, and %s --rollback' takes it back to %s", m.p.Cell, command, m.p.Target)
	default:
		return ""
	}
}

// problems are what is wrong with a request, but for the state and the waits.
func (m *mover) problems(request MoveRequest) (problems Problems) {
	add := func(path, format string, args ...any) {
		problems = append(problems, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
	}
	if request.Transition != MoveStart {
		if m.move == nil || (m.move.Outcome != "" && request.Transition != MoveStart) {
			add("state", "must be of a tenant that moves (is %s in %s)", m.p.State, m.p.Cell)
		}
		if request.Transition == MoveRollback && (m.p.Target == "" || m.p.State == StateFinal && m.p.Sealed) {
			add("state", "must be before the source's copy goes (move it with --to instead)")
		}
		return problems
	}
	if request.Hold < 0 || request.Hold > MaxHold {
		add("hold", "must be from 0 to %v seconds (got %v)", MaxHold, request.Hold)
	}
	if request.Grace != 0 && request.Grace < minGrace {
		add("grace", "must be at least %v seconds (got %v)", minGrace, request.Grace)
	}
	if request.Pause < 0 || request.Pause > MaxPause {
		add("pause", "must be from 0 to %v seconds (got %v)", MaxPause, request.Pause)
	}
	if m.tenant.Status.Phase != Active {
		add("tenant", "must be Active to be moved (is %s)", m.tenant.Status.Phase)
	}
	if m.p.Target != "" {
		if m.aborted() {
			add("tenant", "must not have given up a move (is in %s, and what was brought to %s is being deleted; see 'tenantmesh tenant move status %s', or --abort to leave it there)", m.p.Cell, m.p.Target, m.tenant.Metadata.Name)
			return problems
		}
		if m.p.State == StateFinal {
			add("tenant", "must not move already (is FINAL in %s, and %s keeps its copy for the grace; see 'tenantmesh tenant move status %s', or take --rollback)", m.p.Cell, m.p.Target, m.tenant.Metadata.Name)
			return problems
		}
		add("tenant", "must not move already (is %s from %s to %s; see 'tenantmesh tenant move status %s')", m.p.State, m.p.Cell, m.p.Target, m.tenant.Metadata.Name)
		return problems
	}
	switch {
	case request.To == "":
		add("to", `must name a cell (got "")`)
	case m.objects[Key{KindCell, request.To}] == nil:
		add("to", "must name a cell that exists (got %q)", request.To)
	case request.To == m.p.Cell:
		add("to", "must be another cell: the tenant is in %s", m.p.Cell)
	default:
		for _, c := range Candidates(m.objects, m.tenant) {
			if c.Cell == request.To && c.Rejected != "" {
				add("to", "must be an eligible cell; of %s: %s", c.Cell, c.Rejected)
			}
		}
	}
	return problems
}

// forget removes what members said about a tenant that does not move any more.
func (t *draft) forget(tenant string) {
	for _, key := range keysOf(t.few, KindPosition) {
		if t.objects[key].Position.Tenant == tenant {
			t.remove(key)
		}
	}
}
